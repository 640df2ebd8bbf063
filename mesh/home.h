#ifndef MESH_HOME_H
#define MESH_HOME_H

struct home {
    int unused;
};

#endif
