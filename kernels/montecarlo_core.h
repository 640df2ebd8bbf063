/* One path of an option, shared by the CPU and the CUDA code so that both give the same bits.
 *
 * Paths are numbered from 0; path p belongs to lane p % 256 of block p / 256. A lane adds its paths in
 * ascending order, and the 256 lanes are added by halving (lane i += lane i + 128, then 64, ..., 1), so that
 * the sum has one order everywhere. Normals come from Philox with the seed as key: European: lane l = 64 c +
 * j takes component c of counter 64 block + j. Asian: step s of path p takes component s % 4 of counter (p, s
 * / 4). */
#ifndef KERNELS_MONTECARLO_CORE_H
#define KERNELS_MONTECARLO_CORE_H

#include "kernels/weir_math.h"

#define MONTECARLO_WIDTH 256
#define MONTECARLO_COUNTERS (MONTECARLO_WIDTH / 4)

/* An option row made ready for its paths. */
struct montecarlo_option {
    double spot, strike, sign; /* sign: 1 call, -1 put */
    double drift, spread;      /* of the logarithm, per step */
    double discount;
};

WEIR_INLINE struct montecarlo_option montecarlo_prepare(double spot, double strike, double rate,
                                                        double volatility, double maturity, double steps,
                                                        int put)
{
    const double step = maturity / steps;
    struct montecarlo_option option;
    option.spot = spot;
    option.strike = strike;
    option.sign = put ? -1.0 : 1.0;
    option.drift = (rate - 0.5 * (volatility * volatility)) * step;
    option.spread = volatility * weir_sqrt(step);
    option.discount = weir_exp(-(rate * maturity));
    return option;
}

WEIR_INLINE double montecarlo_payoff(const struct montecarlo_option *option, double price)
{
    const double gain = option->sign * (price - option->strike);
    return gain > 0.0 ? gain : 0.0;
}

/* Bounded so that weir_exp stays in its range: a price beyond e^300 has no meaning. */
WEIR_INLINE double montecarlo_growth(double logarithm)
{
    const double low = logarithm < -300.0 ? -300.0 : logarithm;
    return weir_exp(low > 300.0 ? 300.0 : low);
}

/* Mean and standard error of the discounted payoff, from the sums over all paths. */
WEIR_INLINE void montecarlo_finish(const struct montecarlo_option *option, double sum, double squares,
                                   double paths, double *price, double *error)
{
    const double mean = sum / paths;
    const double variance = squares / paths - mean * mean;
    *price = option->discount * mean;
    *error = option->discount * weir_sqrt((variance > 0.0 ? variance : 0.0) / paths);
}

#endif
