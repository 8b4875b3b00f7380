# Sourced by scripts/test and scripts/demo: makes .venv, or finds that it is as it should be.
#
#   use_environment EXTRAS     e.g. timeseries, or all,dev; afterwards "$VENV/bin/python" has them
#
# PYTHON=/path/to/python chooses the interpreter of a new .venv. Works from any directory.
#
# Inside .venv, the file `unfinished` stands while it is being changed (found at the start, it means that an earlier
# set-up did not end, and .venv is made anew), `location` says where it was made (it cannot be moved), and `installed`
# holds a line "FINGERPRINT EXTRAS" for each set that is in place.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
LOG=$VENV/setup.log
cd -- "$ROOT"

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "scripts/$(basename -- "$0"): $*"
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# The Python for a new .venv, in $BASE. A name in PATH proves nothing (pyenv puts stubs there), so each is run.
find_python() {
    local candidate without_venv='' found
    local candidates=(python3.11 python3.12 python3.13 python3) # constraints.txt was tested on the first
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        new_enough "$candidate" || continue
        BASE=$candidate
        "$BASE" -c 'import ensurepip, venv' >/dev/null 2>&1 && return # Debian splits these off
        without_venv=$candidate
    done
    [ -z "$without_venv" ] ||
        fail "$without_venv cannot make virtual environments; install its venv package (on Debian: apt install python3-venv) and run this again"
    candidate=${PYTHON:-python3}
    found=$("$candidate" --version 2>/dev/null) || found=none
    fail "Python 3.11 or newer is needed, found $found (as $candidate); install one, or set PYTHON=/path/to/python"
}

# Torch and the CUDA libraries it brings on Linux: 6 GB installed, and pip unpacks downloads before it installs.
check_disk() {
    local needed=3 free
    [ "$(uname -s)" != Linux ] || needed=9
    free=$(df -Pk -- "$ROOT" | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
    [ -z "$free" ] || [ "$free" -ge "$needed" ] ||
        fail "the disk is too full: $free GB are free in $ROOT, torch and its libraries need $needed GB; free some and run this again"
}

# What pip goes by: the distribution's own part of pyproject.toml and the tested versions.
fingerprint() {
    "$1" - <<'PYTHON'
import hashlib, json, tomllib
facts = tomllib.load(open("pyproject.toml", "rb"))
parts = [facts["build-system"], facts["project"], facts["tool"]["hatch"], open("constraints.txt").read()]
print(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())
PYTHON
}

# Is this set, or the one that holds all others, in place?
is_installed() {
    [ -f "$VENV/installed" ] && grep -qxF -e "$1 $2" -e "$1 all,dev" -- "$VENV/installed"
}

# Turns what pip said into one line.
explain_pip() {
    local why
    if grep -qiE 'no space left on device|errno 28|disk quota exceeded' "$LOG"; then
        fail "the disk is full; free some 9 GB, also where TMPDIR and pip's cache lie, and run this again (pip's words: $LOG)"
    elif grep -qiE 'NewConnectionError|NameResolutionError|name resolution|unreachable|Timeout(Error)?\b|ProxyError|SSLError|Connection(ResetError| refused| broken| aborted)' "$LOG"; then
        # pip downloads before it installs: an environment that was whole still is.
        [ "$1" = new ] || rm -f -- "$VENV/unfinished"
        fail "no network: pip could not reach the package index; connect, or set its proxy, and run this again (pip's words: $LOG)"
    fi
    why=$(grep -m 1 'ERROR: ' "$LOG" | sed 's/^ *ERROR: *//' | cut -c1-200) || why='no reason given'
    fail "pip failed: $why (pip's words: $LOG)"
}

use_environment() {
    local extras=$1 state=old print started=$SECONDS
    # One set-up at a time. The lock ends with the descriptor; systems without flock do without.
    exec 9<"$ROOT/pyproject.toml"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        say "Waiting for another set-up to end."
        flock 9
    fi

    if [ -e "$VENV/unfinished" ]; then
        say "An earlier set-up did not end; making .venv anew."
        rm -rf -- "$VENV"
    elif [ -f "$VENV/location" ] && [ "$(cat -- "$VENV/location")" != "$ROOT" ]; then
        say "The folder was moved or copied; making .venv anew."
        rm -rf -- "$VENV"
    elif [ -e "$VENV" ] && ! new_enough "$VENV/bin/python"; then
        say "The Python of .venv is missing or too old; making .venv anew."
        rm -rf -- "$VENV"
    fi

    if [ -e "$VENV" ]; then
        print=$(fingerprint "$VENV/bin/python")
    else
        state=new
        find_python
        check_disk
        print=$(fingerprint "$BASE")
        say "Making .venv with $("$BASE" --version)."
        mkdir -- "$VENV"
        touch -- "$VENV/unfinished"
        printf '%s\n' "$ROOT" >"$VENV/location"
        "$BASE" -m venv "$VENV" >"$LOG" 2>&1 || fail "could not make .venv: $(tail -n 1 -- "$LOG") (details: $LOG)"
    fi

    if ! is_installed "$print" "$extras"; then
        say "Installing polycontrast[$extras]; from nothing this takes a few minutes (log: $LOG)."
        touch -- "$VENV/unfinished"
        # Through the variable the tested versions hold for build requirements as well. The path is relative because
        # pip would split it at blanks.
        PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 \
            "$VENV/bin/python" -m pip install --retries 2 --editable ".[$extras]" >"$LOG" 2>&1 </dev/null ||
            explain_pip "$state"
        { grep -sF -- "$print " "$VENV/installed" || true; } >"$VENV/installed.new"
        printf '%s\n' "$print $extras" >>"$VENV/installed.new"
        mv -f -- "$VENV/installed.new" "$VENV/installed"
        rm -f -- "$VENV/unfinished"
        say "Installed in $((SECONDS - started)) s."
    fi
    exec 9<&-
}
