/* Users' kernels that failed their workers. */
#include "node/faulty.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void id_of(uint32_t number, uint8_t id[WORKER_ID_BYTES])
{
    memset(id, 0, WORKER_ID_BYTES);
    memcpy(id, &number, sizeof number);
}

static void the_second_fault_quarantines(void **state)
{
    (void)state;
    static struct faulty faulty;
    uint8_t a[WORKER_ID_BYTES], b[WORKER_ID_BYTES];
    id_of(1, a);
    id_of(2, b);
    assert_null(faulty_find(&faulty, a));
    assert_false(faulty_add(&faulty, a, "mine", "it hung", 10));
    assert_null(faulty_find(&faulty, a));
    assert_null(faulty_each(&faulty, 0));
    assert_false(faulty_add(&faulty, b, "other", "it hung", 11));
    assert_true(faulty_add(&faulty, a, "mine", "it died", 12));
    assert_false(faulty_add(&faulty, a, "mine", "it died again", 13)); /* it was already */
    assert_string_equal(faulty_find(&faulty, a)->kernel, "mine");
    assert_string_equal(faulty_each(&faulty, 0)->reason, "it died again");
    assert_int_equal(faulty_each(&faulty, 0)->faults, 3);
    assert_null(faulty_each(&faulty, 1));
    assert_null(faulty_find(&faulty, b));
}

static void a_full_table_forgets_whose_last_fault_is_the_oldest(void **state)
{
    (void)state;
    static struct faulty faulty;
    uint8_t id[WORKER_ID_BYTES];
    for (uint32_t i = 0; i < FAULTY_MAX; i++)
        for (uint32_t fault = 0; fault < FAULTY_LIMIT; fault++) {
            id_of(i, id);
            faulty_add(&faulty, id, "k", "r", 1000 + i);
        }
    id_of(0, id);
    faulty_add(&faulty, id, "k", "r", 5000); /* the first is now the latest, the second the oldest */
    id_of(FAULTY_MAX, id);
    faulty_add(&faulty, id, "new", "r", 6000);
    assert_null(faulty_find(&faulty, id)); /* one fault only */
    id_of(1, id);
    assert_null(faulty_find(&faulty, id));
    for (uint32_t i = 0; i < FAULTY_MAX; i++) {
        id_of(i, id);
        assert_int_equal(faulty_find(&faulty, id) != NULL, i != 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_fault_quarantines),
        cmocka_unit_test(a_full_table_forgets_whose_last_fault_is_the_oldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
