#ifndef MESH_EXECUTOR_H
#define MESH_EXECUTOR_H

struct executor {
    int unused;
};

#endif
