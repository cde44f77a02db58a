#!/bin/bash
# Starts a Docker daemon by hand where the machine's init does not: in a container, on a CI
# machine, on a classroom's virtual machine. Stops it by its pid, and takes along what it made.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_API_VERSION # they are for another daemon

usage() {
    cat <<'TEXT'
Usage: dockerd.sh start [-- OPTION...]    start a Docker daemon; OPTION... go to dockerd
       dockerd.sh stop [--force]          stop it; --force ends containers that still run
       dockerd.sh status                  say whether one answers, and whose it is

A daemon that answers already is used as it is, and is never stopped from here. A start after one
was killed takes over what it left: its containers end, and are there for docker ps --all.

AIINFRA_DOCKER_STATE   folder for its pid and log    (/run/aiinfra-docker)
AIINFRA_DOCKER_ROOT    its images and containers     (/var/lib/docker)
AIINFRA_DOCKER_SOCKET  where it answers              (/var/run/docker.sock)

Exit status: 1 it failed, or no daemon answers (status); 2 wrong usage; 3 something is missing.
TEXT
}

STATE=${AIINFRA_DOCKER_STATE:-/run/aiinfra-docker}
ROOT=${AIINFRA_DOCKER_ROOT:-/var/lib/docker}
SOCKET=${AIINFRA_DOCKER_SOCKET:-/var/run/docker.sock}
BEFORE=$STATE/before # what the machine was like before the daemon
LOG=$STATE/log
# The usual images and containers belong to the usual places: a daemon that somebody else started
# and that was killed is then taken over too.
if [ "$ROOT" = /var/lib/docker ]; then
    EXEC=/var/run/docker DOCKER_PID=/var/run/docker.pid
else
    EXEC=$STATE/exec DOCKER_PID=$STATE/docker.pid
fi
CONTAINERD=$EXEC/containerd
FORWARDING='net/ipv4/ip_forward net/ipv6/conf/default/forwarding net/ipv6/conf/all/forwarding'

. "$(dirname "$(readlink -f "$0")")/dockerd-machine.sh"

die() { # CODE SENTENCE
    echo "dockerd.sh: $2" >&2
    exit "$1"
}

# Processes, by their pids.

started_at() { # PID: when it started; a pid that was given to another program differs here
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -r -a stat <<<"${stat##*)}" # after the name, in which there may be spaces
    [ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

is_dockerd() { # PID, and it has not ended
    [ "$(cat "/proc/$1/comm" 2>/dev/null)" = dockerd ] && started_at "$1" >/dev/null
}

is_ours() { # the pid file's process is still the daemon that was started; sets PID
    local since=
    { read -r PID since <"$STATE/pid"; } 2>/dev/null || return 1
    is_dockerd "$PID" && [ "$(started_at "$PID")" = "$since" ]
}

answers() { timeout 5 docker -H "unix://$SOCKET" version >/dev/null 2>&1; }

ask() { timeout 60 docker -H "unix://$SOCKET" "$@"; }

end() { # PID SECONDS: ask it to end, and insist after a while
    local since limit=$((SECONDS + $2))
    since=$(started_at "$1") || return 0
    kill -TERM "$1" 2>/dev/null || return 0
    while [ "$(started_at "$1")" = "$since" ]; do
        [ "$SECONDS" -lt "$limit" ] || kill -KILL "$1" 2>/dev/null || true
        [ "$SECONDS" -lt $((limit + 10)) ] || die 1 "the process $1 cannot be ended"
        sleep 0.1
    done
}

# The leftovers of a daemon that was killed: it takes its containerd along only where the kernel
# told it so, and never the shims, below which the containers run.
containerds() { words_of containerd "$CONTAINERD/containerd.toml"; }
shims() { words_of containerd-shim "$CONTAINERD/containerd.sock"; }

words_of() { # NAME WORD: the pids of the programs NAME... that were started with that WORD
    local folder name word
    for folder in /proc/[0-9]*; do
        { read -r name <"$folder/comm"; } 2>/dev/null || continue
        case $name in "$1"*) ;; *) continue ;; esac
        while IFS= read -r -d '' word; do
            # /var/run is a link to /run: dockerd is given either.
            [ "${word#/var}" = "${2#/var}" ] || continue
            echo "${folder#/proc/}"
            break
        done <"$folder/cmdline" 2>/dev/null || true
    done
}

container_of() { # SHIM: the id of its container
    tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null | sed -n '/^-id$/{n;p;q}'
}

running() { # the names of the containers that run, also where no daemon can be asked
    local shim id
    if answers; then
        ask ps --format '{{.Names}}'
        return
    fi
    for shim in $(shims); do
        id=$(container_of "$shim")
        [ -f "$ROOT/containers/$id/config.v2.json" ] || continue
        sed -n 's|.*"Name":"/\([^"]*\)".*|\1|p' "$ROOT/containers/$id/config.v2.json"
    done
}

end_shims() { # and with each its container, which nobody would look after
    local shim id child
    for shim in $(shims); do
        id=$(container_of "$shim")
        [ -z "$id" ] || thaw "$id"
        for child in $(cat "/proc/$shim/task/"*/children 2>/dev/null); do
            kill -KILL "$child" 2>/dev/null || true
        done
        end "$shim" 5
        [ -n "$id" ] || continue
        find /sys/fs/cgroup -depth -type d -path "*/$id*" -exec rmdir {} + 2>/dev/null || true
    done
}

thaw() { # CONTAINER: a paused process of version 1 takes no signal, not even the last
    local file
    find /sys/fs/cgroup -path "*/$1/freezer.state" 2>/dev/null |
        while read -r file; do echo THAWED >"$file"; done
}

# Starting.

# A process may not hand on what its bounding set lacks, and --privileged asks for everything:
# "unable to apply caps". This runtime asks for one capability less.
write_runtime() {
    cat >"$STATE/bounded-runc" <<'RUNTIME'
#!/bin/sh
set -eu
file= next=
for word; do
    case $next in
        bundle) file=$word/config.json ;;
        process) file=$word ;;
    esac
    next=
    case $word in
        --) break ;;
        --bundle | -bundle | -b) next=bundle ;;
        --process | -process | -p) next=process ;;
        --bundle=* | -bundle=* | -b=*) file=${word#*=}/config.json ;;
        --process=* | -process=* | -p=*) file=${word#*=} ;;
    esac
done
if [ -n "$file" ] && [ -f "$file" ]; then
    # Only inside the five lists of capabilities: an argument of a program may be the same word.
    list='"(bounding|effective|permitted|inheritable|ambient)"[[:space:]]*:[[:space:]]*\['
    sed -zEi -e ':again' \
        -e "s/($list[^]]*)\"CAP_SYS_RESOURCE\"[[:space:]]*,?/\1/" -e 't again' \
        -e "s/($list[^]]*[^],[:space:]])[[:space:]]*,[[:space:]]*\]/\1]/g" "$file"
fi
exec runc "$@"
RUNTIME
    chmod 755 "$STATE/bounded-runc"
}

is_bounded() { # bit 24, CAP_SYS_RESOURCE, is missing from the bounding set
    local set
    set=$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)
    [ $((16#$set >> 24 & 1)) = 0 ]
}

recover() { # take the leftovers of a daemon that was killed out of the way of the next
    local pid
    for pid in $(containerds); do end "$pid" 10; done
    # dockerd believes in any process that has the pid in these files.
    is_dockerd "$(cat "$DOCKER_PID" 2>/dev/null)" || rm -f "$DOCKER_PID"
    rm -f "$CONTAINERD/containerd.pid" "$STATE/pid"
}

start() {
    local limit
    if is_ours; then
        answers || die 1 "the daemon with pid $PID does not answer at $SOCKET; its log is $LOG"
        echo "the Docker daemon runs already: pid $PID, log $LOG"
        return
    elif answers; then
        echo "a Docker daemon that was not started from here answers at $SOCKET: it is used"
        return
    fi
    mkdir -p "$STATE"
    recover
    remember
    mount_cgroups
    ! is_bounded || {
        write_runtime
        set -- --add-runtime "bounded=$STATE/bounded-runc" --default-runtime bounded "$@"
    }
    [ ! -f "$LOG" ] || mv "$LOG" "$LOG.1" # why the last one died
    setsid dockerd --host "unix://$SOCKET" --data-root "$ROOT" --exec-root "$EXEC" \
        --pidfile "$DOCKER_PID" "$@" </dev/null >"$LOG" 2>&1 9>&- &
    PID=$!
    echo "$PID $(started_at $PID)" >"$STATE/pid"
    limit=$((SECONDS + 60))
    until answers; do
        if ! started_at $PID >/dev/null || [ "$SECONDS" -ge "$limit" ]; then
            set -- "$(tail -n 1 "$LOG")"
            if [ -z "$(shims)" ]; then clean_up; else ! is_ours || end "$PID" 30; fi
            die 1 "dockerd does not come up: ${1:-it said nothing}"
        fi
        sleep 0.2
    done
    [ -f "$BEFORE/networks" ] || ask network ls --format '{{.Name}}' >"$BEFORE/networks"
    echo "the Docker daemon answers at $SOCKET: pid $PID, log $LOG"
}

# Stopping.

clean_up() { # end what is left of the daemon, and take away what it made
    local pid address
    ! is_ours || end "$PID" 30
    for pid in $(containerds); do end "$pid" 5; done
    end_shims
    restore
    for address in "$CONTAINERD"/daemon/io.containerd.runtime.v2.task/*/*/address; do
        [ ! -f "$address" ] || rm -f "$(sed 's|^unix://||' "$address")"
    done
    rmdir /run/containerd/s /run/containerd 2>/dev/null || true
    rm -f "$DOCKER_PID" "$SOCKET"
    rm -rf --one-file-system "$EXEC" "$STATE"
}

force() { # NAMES: end them, where somebody can be asked; the others end with their shims
    local name
    answers || return 0
    for name in $1; do # the daemon knows how to end a paused one
        ask kill "$name" || true
    done >/dev/null 2>&1
}

stop() { # [--force]
    local names
    if ! is_ours && { answers || [ ! -d "$BEFORE" ]; }; then
        echo "no Docker daemon that was started from here runs"
        return
    fi
    ! is_ours || [ "$(net_of "/proc/$PID")" = "$(net_of /proc/self)" ] ||
        die 1 "the daemon with pid $PID has another network than this shell: stop it where it runs"
    names=$(running | paste -sd ' ')
    if [ -n "$names" ]; then
        [ "${1:-}" = --force ] ||
            die 1 "containers still run: $names; end them first, or: $0 stop --force"
        force "$names"
    fi
    # kind's own network, which its next cluster makes again.
    if answers && ! grep -qsx kind "$BEFORE/networks" &&
        [ -z "$(ask ps -aq --filter network=kind)" ]; then
        ask network rm kind >/dev/null 2>&1 || true
    fi
    clean_up
    echo "the Docker daemon has stopped"
}

status() {
    if is_ours && answers; then
        echo "the Docker daemon answers at $SOCKET: pid $PID, log $LOG"
    elif answers; then
        echo "a Docker daemon that was not started from here answers at $SOCKET"
    else
        echo "no Docker daemon answers at $SOCKET"
        return 1
    fi
}

main() {
    local word=${1:-} program
    case "$word $*" in
        *" --help" | *" -h" | *" --help "*) usage && return ;;
    esac
    [ $# = 0 ] || shift
    case $word in
        start) [ "${1:---}" = -- ] ;;
        stop) [ $# = 0 ] || { [ $# = 1 ] && [ "$1" = --force ]; } ;;
        status) [ $# = 0 ] ;;
        *) false ;;
    esac || {
        usage >&2
        die 2 "these are no words for it: ${word:-none}${*:+ $*}"
    }
    [ "$word" != status ] || {
        status
        return
    }
    [ "$(id -u)" = 0 ] || die 3 "only root can $word a Docker daemon: sudo $0 $word"
    for program in dockerd docker iptables ip; do
        command -v $program >/dev/null ||
            die 3 "$program is not installed: apt-get install docker.io iptables iproute2"
    done
    # One at a time. The folder above is locked, since the state's own is removed.
    mkdir -p "$(dirname "$STATE")"
    exec 9<"$(dirname "$STATE")"
    flock -w 120 9 || die 1 "another dockerd.sh is at work on $STATE"
    [ "$word" != start ] || [ $# = 0 ] || shift
    $word "$@"
}

main "$@"
