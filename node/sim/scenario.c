#include "node/sim/world.h"
bool sim_scenario(const struct sim_options *options, const char *path, FILE *out, struct sim_result *result)
{ (void)options;(void)path;(void)out;(void)result; return false; }
void sim_story_line(struct world *world, uint32_t line) { (void)world; (void)line; }
void sim_story_look(struct world *world) { (void)world; }
void sim_story_message(struct world *world, uint32_t from, uint32_t to, enum mesh_message_kind kind) { (void)world; (void)from;(void)to;(void)kind; }
