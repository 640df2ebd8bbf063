/* What /metrics says, in OpenMetrics text: https://openmetrics.io */
#include "node/node.h"

#include <stdio.h>
#include <string.h>

static void gauge(FILE *out, const char *name, const char *help, double value)
{
    fprintf(out, "# TYPE weir_%s gauge\n# HELP weir_%s %s\nweir_%s %.10g\n", name, name, help, name, value);
}

static void counter(FILE *out, const char *name, const char *help, uint64_t value)
{
    fprintf(out, "# TYPE weir_%s counter\n# HELP weir_%s %s\nweir_%s_total %llu\n", name, name, help, name,
            (unsigned long long)value);
}

static void write_members(struct node *node, FILE *out)
{
    static const char *const words[] = {"", "up", "suspect", "down", "left", "revoked"};
    uint32_t states[6] = {0}, quarantined = 0;
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        states[view.state]++;
        quarantined += view.quarantined;
    }
    for (uint32_t i = 0; records_barred_view(node, i, &view); i++)
        states[view.state]++;
    fprintf(out, "# TYPE weir_members gauge\n# HELP weir_members Members of the mesh by state, as this node "
                 "sees them.\n");
    for (int s = MESH_UP; s <= MESH_REVOKED; s++)
        fprintf(out, "weir_members{state=\"%s\"} %u\n", words[s], states[s]);
    gauge(out, "members_quarantined", "Members that brought this node a wrong result.", quarantined);
    fprintf(out, "# TYPE weir_link_rtt_seconds gauge\n# UNIT weir_link_rtt_seconds seconds\n"
                 "# HELP weir_link_rtt_seconds Smoothed round trip to each neighbour.\n");
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++)
        if (view.neighbour && !view.self && view.rtt_us)
            fprintf(out, "weir_link_rtt_seconds{peer=\"%s\"} %.6f\n", peer_name(node, &view.id),
                    view.rtt_us / 1e6);
}

static void write_owner(struct node *node, FILE *out)
{
    uint32_t owned = 0;
    for (uint32_t i = 0; i < node->devices.count; i++)
        owned += node->devices.device[i].owner.state == OWNER_OWNED ||
                 node->devices.device[i].owner.state == OWNER_RECLAIM;
    gauge(out, "devices_owned", "Devices that their owner has now.", owned);
    counter(out, "reclaims", "Devices taken back while they had a worker.", node->devices.reclaims);
    gauge(out, "reclaim_p99_seconds", "How long owners waited until their device was free.",
          samples_quantile(&node->devices.reclaim_ms, 990) / 1000.0);
}

static void write_work(struct node *node, FILE *out)
{
    static const char *const classes[MESH_DEVICE_CLASSES] = {"cpu", "cuda"};
    struct mesh_executor_view view;
    mesh_executor_view(node->host.mesh, &view);
    fprintf(out, "# TYPE weir_slots gauge\n# HELP weir_slots Lendable slots by device class and use.\n");
    for (int c = 0; c < MESH_DEVICE_CLASSES; c++) {
        fprintf(out, "weir_slots{class=\"%s\",use=\"all\"} %u\n", classes[c], view.class[c].slots);
        fprintf(out, "weir_slots{class=\"%s\",use=\"free\"} %u\n", classes[c], view.class[c].free);
    }
    gauge(out, "disk_trouble", "1 while the disk is full or fails and nothing is lent for that.",
          node->disk.error ? 1 : 0);
    counter(out, "disk_failures", "Outputs, results and inputs that could not be stored.",
            node->disk.failures);
    uint32_t faulty = 0;
    struct workers_view each;
    for (uint32_t i = 0; workers_view(node->workers, i, &each); i++)
        faulty += each.fault;
    write_owner(node, out);
    gauge(out, "devices_fault", "Devices withdrawn because their workers failed again and again.", faulty);
    gauge(out, "bundles_running", "Bundles that run on this node.", view.running);
    gauge(out, "bundles_waiting", "Bundles accepted and not yet running.", view.waiting);
    gauge(out, "bundles_unacked", "Finished bundles that their home has not acknowledged.", view.unacked);
    gauge(out, "jobs", "Jobs that this node keeps, finished ones included.", node->jobs.count);
    fprintf(
        out,
        "# TYPE weir_device_shards counter\n# HELP weir_device_shards Shards that each device has run.\n");
    struct workers_view device;
    for (uint32_t i = 0; workers_view(node->workers, i, &device); i++)
        fprintf(out, "weir_device_shards_total{device=\"%s\"} %llu\n", device.device,
                (unsigned long long)device.shards);
    fprintf(out, "# TYPE weir_device_busy_seconds counter\n# UNIT weir_device_busy_seconds seconds\n"
                 "# HELP weir_device_busy_seconds Time each device spent in shards.\n");
    for (uint32_t i = 0; workers_view(node->workers, i, &device); i++)
        fprintf(out, "weir_device_busy_seconds_total{device=\"%s\"} %.6f\n", device.device,
                (double)device.busy_us / 1e6);
}

static void write_store(struct node *node, FILE *out)
{
    struct store_stats stats;
    store_stats(node->store, &stats);
    counter(out, "store_commits", "Durable transactions.", stats.groups);
    counter(out, "store_operations", "Operations in them.", stats.operations);
    gauge(out, "store_commit_p99_seconds", "Time that 99 of 100 of the latest commits took at most.",
          (double)stats.commit_p99_us / 1e6);
    gauge(out, "store_state_bytes", "Used by state.", (double)stats.state_used_bytes);
    gauge(out, "store_blob_bytes", "Bytes of all blobs.", (double)stats.blob_bytes);
    counter(out, "store_corrupt", "Values that did not match their digest and were dropped.", stats.corrupt);
    gauge(out, "cache_entries", "Results in the cache.", (double)stats.entries);
    counter(out, "cache_hits", "Lookups that found a result here.", stats.cache_hits);
    counter(out, "cache_misses", "Lookups that did not.", stats.cache_misses);
    counter(out, "cache_lies", "Entries from others that could not be the results of their keys.",
            node->cache.lies);
    counter(out, "cache_evictions", "Blobs, entries and pointers evicted.", stats.evictions);
}

void metrics_write(struct node *node, FILE *out)
{
    fprintf(
        out,
        "# TYPE weir_build info\n# HELP weir_build The running version.\nweir_build_info{version=\"%s\"} 1\n",
        NODE_SOFTWARE);
    gauge(out, "uptime_seconds", "Since the node started.",
          (double)(clock_now_ms() - node->started_at_ms) / 1000);
    gauge(out, "certificate_ends_seconds", "When this node's certificate ends, since 1970.",
          (double)federation_certificate(node->federation)->not_after_s);
    gauge(out, "revoked_by", "Members that refuse this node's certificate as revoked.",
          records_revoked_by(node));
    gauge(out, "clock_ahead_seconds",
          "How far most of the other members say this clock is ahead; 0: within 5 min.",
          (double)skew_own(node));
    write_members(node, out);
    write_work(node, out);
    write_store(node, out);
    struct api_counters api;
    api_count(node->api, &api);
    counter(out, "api_calls", "Calls of local clients.", api.calls);
    counter(out, "api_denied", "Calls refused for want of a right.", api.denied);
    counter(out, "api_malformed", "Connections of local clients ended for bad frames.", api.malformed);
    counter(out, "journal_refused", "Entries of other homes that made no sense here.", node->copies.refused);
    counter(out, "journal_blobs_fetched", "Blobs fetched because an entry names them.",
            node->copies.blobs_fetched);
    counter(out, "journal_blob_bytes", "Their bytes.", node->copies.blob_bytes);
    counter(out, "journal_blobs_missed", "Those that did not come; their entries were not held.",
            node->copies.blobs_missed);
    counter(out, "finished_jobs_taken_back",
            "Finished jobs that this disk lacked, had back from other members.", node->jobs.taken_back);
    counter(out, "records_refused", "Signed records that did not verify.", node->records_refused);

    const struct mesh_counters *core = mesh_counters(node->host.mesh);
#define WRITE_CORE(name) counter(out, "core_" #name, "Counter of the protocol core.", core->name);
    MESH_COUNTERS(WRITE_CORE)
    struct transport_counters transport;
    transport_counters_read(node->transport, &transport);
#define WRITE_TRANSPORT(name, text) counter(out, "transport_" #name, text, transport.name);
    TRANSPORT_COUNTERS(WRITE_TRANSPORT)
    struct bulk_counters bulk;
    bulk_counters_read(node->bulk, &bulk);
#define WRITE_BULK(name, text) counter(out, "bulk_" #name, text, bulk.name);
    BULK_COUNTERS(WRITE_BULK)
    struct join_counters join;
    join_server_counters(node->join, &join);
#define WRITE_JOIN(name, text)                                                                               \
    counter(out, "join_" #name, "Join socket, which strangers reach: " text ".", join.name);
    JOIN_COUNTERS(WRITE_JOIN)
    fprintf(out, "# EOF\n");
}
