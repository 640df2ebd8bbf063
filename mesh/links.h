#ifndef MESH_LINKS_H
#define MESH_LINKS_H

struct links {
    int unused;
};

#endif
