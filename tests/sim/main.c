/* `weir sim` as a program of its own, for the tests: it links the core and the simulator alone. */
#include "node/sim/sim.h"

int main(int argc, char **argv)
{
    return sim_main(argc, argv);
}
