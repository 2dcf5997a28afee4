# Make a Debian system in a directory and run commands in it. It contains nothing that is installed on this machine.
# Like a leg (see run), each command has its own namespaces for mounts and processes, so that it leaves nothing to the
# next one.

NEWCOMER=newcomer
HOUSE=/srv/$NEWCOMER
CHECKOUT=$HOUSE/cachekeeper

# make_root DIRECTORY SUITE [PACKAGE...]: make a minimal Debian with these packages, and this checkout in a newcomer's
# home.
make_root() {
    local root=$1 suite=$2 mirror key
    shift 2
    source_of "$suite" > "$REPORTS/$suite.sources"
    mirror=$(awk '$1 == "URIs:" { print $2; exit }' "$REPORTS/$suite.sources")
    if [ -z "$mirror" ]; then
        echo "/etc/apt has no Debian source from which to take the mirror of $suite" >&2
        return 1
    fi
    key=$(awk '$1 == "Signed-By:" { print $2; exit }' "$REPORTS/$suite.sources")
    if [ ! -f "$key" ]; then key=/usr/share/keyrings/debian-archive-keyring.gpg; fi
    mkdir -p "$root"
    debootstrap --variant=minbase --keyring="$key" "$suite" "$root" "$mirror" > "$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        return 1
    }
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    apt-config dump | grep -E '^Acquire::https?::' > "$root/etc/apt/apt.conf.d/90machine" || true
    copy_in "$root" "$key" /etc/hosts /etc/resolv.conf $(sed -n 's/.*"\(\/.*\)".*/\1/p' "$root/etc/apt/apt.conf.d/90machine")
    copy_configuration "$root"
    in_root "$root" root apt-get update --quiet=2 -o Acquire::Retries=3
    in_root "$root" root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends -o Acquire::Retries=3 "$@" > "$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        return 1
    }
    # Again after the packages: one of them may have replaced the certificates.
    copy_configuration "$root"
    in_root "$root" root useradd --create-home --home-dir "$HOUSE" --shell /bin/sh "$NEWCOMER"
    copy_checkout "$root$CHECKOUT"
    in_root "$root" root chown -R "$NEWCOMER:" "$HOUSE"
}

# copy_in ROOT FILE...: copy files of this machine to the same place in the root.
copy_in() {
    local root=$1 file
    shift
    for file in "$@"; do
        if [ -e "$file" ]; then
            mkdir -p "$root$(dirname "$file")"
            cp -rL "$file" "$root$(dirname "$file")/"
        fi
    done
}

# copy_configuration ROOT: copy the configuration with which this machine reaches the registry of Python's packages. If
# it also names folders of this machine, they are missing in the root: pip warns and continues.
copy_configuration() {
    local root=$1 name
    copy_in "$root" /etc/pip.conf /etc/xdg/pip "${PIP_CONFIG_FILE:-/etc/pip.conf}"
    for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE; do
        if [ -n "${!name-}" ]; then copy_in "$root" "${!name}"; fi
    done
    if [ -f ~/.config/pip/pip.conf ]; then
        mkdir -p "$root$HOUSE/.config/pip"
        cp ~/.config/pip/pip.conf "$root$HOUSE/.config/pip/"
    fi
}

# copy_checkout DIRECTORY: copy this checkout as it is, without files that git ignores. If nothing is changed, the copy
# is like a fresh clone.
copy_checkout() {
    git clone --quiet --no-checkout --no-hardlinks . "$1"
    git -C "$1" reset --quiet
    git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
        tar --create --null --files-from=- | tar --extract --directory="$1"
}

# in_root ROOT USER COMMAND...: run a command in the root, as that user, with a clean environment.
in_root() {
    local root=$1 user=$2 name
    local kept=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI=true)
    shift 2
    if [ "$user" = root ]; then kept+=(HOME=/root); else kept+=(HOME="$HOUSE" USER="$user"); fi
    for name in ${!PIP_*} SSL_CERT_FILE REQUESTS_CA_BUNDLE {http,https,no}_proxy {HTTP,HTTPS,NO}_PROXY \
        TEST_PARTS TEST_REPORT; do
        if [ -n "${!name-}" ]; then kept+=("$name=${!name}"); fi
    done
    # The shell that mounts stays as the first process of the namespace. It reaps orphans, and when it ends, all other
    # processes of the namespace end too.
    unshare --mount --pid --fork --kill-child bash -c '
        set -eu
        root=$1 user=$2
        shift 2
        mount -t proc proc "$root/proc"
        mount -t sysfs -o ro sysfs "$root/sys"
        mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
        ln -sf pts/ptmx "$root/dev/ptmx"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        status=0
        chroot --userspec="$user" "$root" env -i "$@" || status=$?
        exit "$status"
    ' in_root "$root" "$user" "${kept[@]}" "$@"
}
