/*
 * Keeps this node's certificate from ending: from two thirds of its life on, it is renewed with the authority
 * key if that lies here, else by one inviter after another (join_renew), with a try every minute, or every
 * tenth of the life if that is shorter, until one works.
 *
 * After a renewal the node's own MEMBER record must be signed anew, since it carries the chain: `renewed`
 * says when.
 */
#ifndef NODE_RENEWAL_H
#define NODE_RENEWAL_H

#include "node/join.h"

struct renewal;

struct renewal_callbacks {
    /* The `index`-th member that may issue certificates (federation_may_issue) and is up, in any order;
     * false when there are no more. Not this node itself. */
    bool (*issuer)(void *context, uint32_t index, struct federation_contact *contact);
    void (*renewed)(void *context);
    void *context;
};

/* All are borrowed until renewal_close. Looks on the loop's turns; close it after loop_run has returned and
 * after the client. */
bool renewal_open(struct loop *loop, struct federation *federation, struct join_client *client,
                  const struct renewal_callbacks *callbacks, struct renewal **renewal);
void renewal_close(struct renewal *renewal); /* NULL is allowed */

#endif
