# shellcheck shell=bash
# For dockerd.sh: what the machine was like before the daemon, and how it becomes so again. Only
# what the daemon added is taken away, in just the words in which it was added.

rules() { # TABLE: its rules and chains, without their counters
    iptables -w -t "$1" -S 2>/dev/null || true
}

remember() {
    local name
    # A killed daemon left its rules and bridges: they are no part of the machine.
    ! is_remembered || return 0
    rm -rf "$BEFORE"
    mkdir -p "$BEFORE"
    links >"$BEFORE/links"
    for name in filter nat; do rules $name >"$BEFORE/iptables-$name"; done
    for name in $FORWARDING; do
        [ ! -r "/proc/sys/$name" ] || echo "$name $(cat "/proc/sys/$name")"
    done >"$BEFORE/forwarding"
    awk '{ print $5 }' /proc/self/mountinfo >"$BEFORE/mounted"
    : >"$BEFORE/mounts"
    here >"$BEFORE/machine"
}

here() { cat /proc/sys/kernel/random/boot_id && readlink /proc/self/ns/net; }

is_remembered() { # for this boot and these interfaces, not for those of a container before
    [ "$(here)" = "$(cat "$BEFORE/machine" 2>/dev/null)" ]
}

links() { ip -o link show "$@" | sed -E 's/^[0-9]+: ([^:@]+).*/\1/'; }

bridges() { # those that the daemon's own records name
    local name
    for name in $(links type bridge); do
        ! grep -qaF "\"BridgeName\":\"$name\"" "$ROOT/network/files/local-kv.db" || echo "$name"
    done
}

is_alone() { # no other daemon uses these rules
    local folder name
    for folder in /proc/[0-9]*; do
        { read -r name <"$folder/comm"; } 2>/dev/null || continue
        [ "$name" != dockerd ] || [ "$(net_of "$folder")" != "$(net_of /proc/self)" ] || return 1
    done
}

net_of() { readlink "$1/ns/net" 2>/dev/null || true; }

drop_rules() { # BRIDGES: the rules in just the words in which Docker makes them, then its chains
    local table chain rule made words bridge=${1:-none} chains own
    chains='DOCKER(-ISOLATION-STAGE-[12]|-USER)?'
    bridge="(${bridge//$'\n'/|})"
    if rules filter | grep '^-A DOCKER-USER ' | grep -qvxe '-A DOCKER-USER -j RETURN'; then
        chains='DOCKER(-ISOLATION-STAGE-[12])?'
        echo "kept the chain DOCKER-USER, in which there are rules that are not Docker's"
    fi
    made="FORWARD -o $bridge( -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT| -j DOCKER)"
    made="$made|FORWARD -i $bridge( !)? -o $bridge -j (ACCEPT|DROP)"
    made="$made|FORWARD -j $chains"
    made="$made|(PREROUTING|OUTPUT( ! -d 127.0.0.0/8)?) -m addrtype --dst-type LOCAL -j DOCKER"
    made="$made|POSTROUTING -s [0-9./]+ ! -o $bridge -j MASQUERADE"
    made="$made|POSTROUTING -o $bridge -m addrtype --src-type LOCAL -j MASQUERADE"
    # A container that reaches itself by a published port; its end takes the rule away, a kill not.
    own='POSTROUTING -s [0-9.]+/32 -d [0-9.]+/32 -p (tcp|udp|sctp) .*--dport [0-9]+ -j MASQUERADE'
    for table in filter nat; do
        { added "$table" "-A ($made)" && added "$table" "-A $own" | to_container "$bridge"; } | while read -r _ chain rule; do
            read -r -a words <<<"$rule"
            iptables -w -t $table -D "$chain" "${words[@]}" || true
        done
        for rule in F X; do # they lead to each other
            added "$table" "-N $chains" | while read -r _ chain; do
                # A rule that still leads to one is not Docker's, and keeps it.
                iptables -w -t $table -$rule "$chain" || true
            done
        done
    done
}

to_container() { # BRIDGES: of the rules that are read, those from an address behind them to itself
    local line address
    while read -r line; do
        address=${line#*-s } address=${address%%/*}
        case $line in *" -d $address/32 "*) ;; *) continue ;; esac
        ! ip route get "$address" 2>/dev/null | grep -qE " dev $1 " || echo "$line"
    done
}

added() { # TABLE PATTERN: such lines of the table that were not there before
    rules "$1" | grep -xE -e "$2" | grep -vxF -f "$BEFORE/iptables-$1" || true
}

restore() { # rules, bridges, forwarding and mounts as they were
    local name value made place
    is_remembered || return 0
    made=$(bridges)
    if is_alone; then
        drop_rules "$made"
        while read -r name value; do
            [ "$(cat "/proc/sys/$name")" != "$value" ] || continue
            echo "$value" >"/proc/sys/$name"
            # With forwarding, and only then, the daemon forbade it to all others.
            [ "$name" != net/ipv4/ip_forward ] || [ -z "$(added filter '-P FORWARD DROP')" ] ||
                iptables -w -P FORWARD ACCEPT
        done <"$BEFORE/forwarding"
    fi
    for name in $made; do
        ! grep -qxF "$name" "$BEFORE/links" || continue
        # The kernel takes a container's own link away some time after the container has ended.
        for value in $(links master "$name"); do ip link delete "$value" 2>/dev/null || true; done
        ip link delete "$name" || true
    done
    unmount_below "$ROOT" "$EXEC"
    tac "$BEFORE/mounts" | while read -r place; do umount "$place" || true; done
}

unmount_below() { # FOLDER...: what a killed daemon left mounted there, and the folder on itself
    local folder
    for folder; do
        folder=$(readlink -f "$folder") || continue
        awk -v at="$folder" '$5 == at || index($5, at "/") == 1 { print $5 }' /proc/self/mountinfo |
            grep -vxF -f "$BEFORE/mounted" | tac |
            while read -r place; do umount -l "$(printf '%b' "$place")" || true; done
    done
}

mount_cgroups() { # where nobody has: in a container, below a small init
    local name at=/sys/fs/cgroup
    if ! mountpoint -q $at; then
        # A controller with a hierarchy of its own is one of version 1.
        if awk '!/^#/ && $2 != 0 { found = 1 } END { exit !found }' /proc/cgroups; then
            mount -t tmpfs -o mode=755 cgroup $at
        else
            mount -t cgroup2 cgroup $at
        fi
        echo $at >>"$BEFORE/mounts"
    fi
    if [ -f $at/cgroup.controllers ]; then
        delegate $at
        return
    fi
    # Docker and a kubelet use these; what else there may be is not missed.
    for name in cpu cpuacct cpuset memory devices freezer blkio pids; do
        ! grep -qE "^[^ ]+ [^ ]+ cgroup ([^ ]*,)?$name[, ]" /proc/self/mounts || continue
        mkdir -p "$at/$name" 2>/dev/null || continue
        # One that version 2 has taken cannot be had here, and is not missed.
        ! mount -t cgroup -o "$name" cgroup "$at/$name" 2>/dev/null ||
            echo "$at/$name" >>"$BEFORE/mounts"
    done
}

delegate() { # FOLDER: version 2 gives its controllers on from a group without processes only
    local name pid
    if [ -e "$1/cgroup.type" ]; then # a container's group; the machine's own has no type
        mkdir -p "$1/init"
        for pid in $(cat "$1/cgroup.procs"); do
            { echo "$pid" >"$1/init/cgroup.procs"; } 2>/dev/null || true
        done
    fi
    for name in $(cat "$1/cgroup.controllers"); do
        { echo "+$name" >"$1/cgroup.subtree_control"; } 2>/dev/null || true
    done
}
