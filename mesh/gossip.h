#ifndef MESH_GOSSIP_H
#define MESH_GOSSIP_H

struct gossip {
    int unused;
};

#endif
