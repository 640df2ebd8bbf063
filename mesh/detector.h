#ifndef MESH_DETECTOR_H
#define MESH_DETECTOR_H

struct detector {
    int unused;
};

#endif
