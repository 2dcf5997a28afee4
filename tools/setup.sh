#!/bin/sh
# Makes .venv with everything for development, in the current directory. Called by `make setup`; needs a POSIX shell,
# Python 3.11 or later, and pip.
set -eu

say() { printf '%s\n' "$*" >&2; }

# A name on PATH proves nothing: a pyenv shim of a version that is not selected exists, and fails when run.
suitable() {
    "$1" -c 'import sys, ssl, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for name in python3.12 python3.11 python3.13 python3.14 python3; do
        if suitable "$name"; then
            printf '%s\n' "$name"
            return 0
        fi
    done
    say "cachekeeper needs Python 3.11 or later (with its ssl and venv modules), and found none that runs:"
    for name in python3.12 python3.11 python3.13 python3.14 python3; do
        say "  $name: $("$name" --version 2>&1 | head -n 1)"
    done
    say "Install one and run this again:"
    say "  Debian 12, Ubuntu 24.04 or later: sudo apt install python3 python3-venv python3-pip"
    say "  Fedora: sudo dnf install python3.12    macOS: brew install python@3.12    others: python.org"
    return 1
}

# Debian and Ubuntu keep ensurepip in a package of its own (python3-venv). Without it, a pip from outside installs into
# the environment; `pip --python` came with pip 22.3.
install_from_outside() {
    for pip in "$python -m pip" pip3 pip; do
        # Unquoted on purpose: the first candidate is three words.
        if $pip --python .venv/bin/python --version >/dev/null 2>&1; then
            $pip --python .venv/bin/python --disable-pip-version-check install "$@"
            return
        fi
    done
    say "$python has no ensurepip, and no pip 22.3 or later was found that could do its work. Any one of these helps:"
    say "  Debian, Ubuntu: sudo apt install python3-venv    (for a python3.12 of its own: python3.12-venv)"
    say "  an older pip:   $python -m pip install --user --upgrade pip"
    return 1
}

# An interpreter that has been upgraded away leaves an environment that no longer runs: make it anew.
if ! suitable .venv/bin/python; then
    python=$(find_python)
    say "Making .venv with $("$python" --version 2>&1) ($python)"
    if "$python" -c 'import ensurepip; ensurepip.version()' >/dev/null 2>&1; then
        "$python" -m venv --clear .venv
    else
        "$python" -m venv --clear --without-pip .venv
        install_from_outside --quiet --constraint constraints.txt pip
    fi
fi

say "Installing into .venv (once; again when pyproject.toml or constraints.txt change)"
.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable '.[dev]'
touch .venv/.set-up
