#!/bin/sh
# Makes .venv in the current directory, with everything for development. `make setup` calls it. It needs a POSIX shell,
# Python 3.11 or later, and pip.
set -eu

names="python3.12 python3.11 python3.13 python3.14 python3"

say() { printf '%s\n' "$*" >&2; }

# A program on PATH may not run: a pyenv shim exists even for a version that is not selected, and then fails.
suitable() {
    "$1" -c 'import sys, ssl, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for name in $names; do
        if suitable "$name"; then
            printf '%s\n' "$name"
            return 0
        fi
    done
    say "cachekeeper needs Python 3.11 or later with the modules ssl and venv. No suitable one was found:"
    for name in $names; do
        if command -v "$name" >/dev/null 2>&1; then
            say "  $name: $("$name" --version 2>&1 | head -n 1)"
        else
            say "  $name: not on PATH"
        fi
    done
    say "Install one and run this again:"
    say "  Debian 12, Ubuntu 24.04 or later: sudo apt install python3 python3-venv python3-pip"
    say "  Fedora: sudo dnf install python3.12    macOS: brew install python@3.12    others: python.org"
    return 1
}

# Debian and Ubuntu keep ensurepip in a separate package (python3-venv). Without it, a pip from outside installs pip
# into the environment. `pip --python` needs pip 22.3.
pip_from_outside() {
    for pip in "$python -m pip" pip3 pip; do
        # Not quoted on purpose: the first candidate has three words.
        if $pip --python .venv/bin/python --version >/dev/null 2>&1; then
            $pip --python .venv/bin/python --disable-pip-version-check install --quiet --constraint constraints.txt pip
            return
        fi
    done
    say "$python has no ensurepip, and no pip 22.3 or later was found to replace it. Do one of these:"
    say "  Debian, Ubuntu: sudo apt install python3-venv    (for a separate python3.12: python3.12-venv)"
    say "  an older pip:   $python -m pip install --user --upgrade pip"
    return 1
}

# When called without make: do nothing if no list has changed since the last installation.
if [ -e .venv/.set-up ] && suitable .venv/bin/python &&
    [ -z "$(find pyproject.toml constraints.txt scripts/setup.sh -newer .venv/.set-up)" ]; then
    exit 0
fi

# If the last attempt failed half-way, the environment has no pip. If its interpreter was upgraded, it no longer runs.
# Make it again in both cases.
if ! suitable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "Making .venv with $("$python" --version 2>&1) ($python)"
    if "$python" -c 'import ensurepip; ensurepip.version()' >/dev/null 2>&1; then
        "$python" -m venv --clear .venv
    else
        "$python" -m venv --clear --without-pip .venv
        pip_from_outside
    fi
fi

say "Installing into .venv (downloads 130 MB, needs 480 MB). Runs again if pyproject.toml or constraints.txt change."
.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable '.[dev]'
touch .venv/.set-up
