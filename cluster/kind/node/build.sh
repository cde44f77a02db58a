#!/bin/bash
# Makes the node image of kind, and a small Debian with Python, out of compiled programs and Debian's
# packages; nothing is pulled.
#
#     WORK=/tmp/w PROGRAMS=/tmp/p KUBERNETES=v1.36.2 TAG=aiinfra/node:mine build.sh system images node
#     WORK=/tmp/w PYTHON_TAG=aiinfra/python:mine build.sh python
#
# Steps that were done in WORK are not done again. `aiinfra cluster node-image` compiles the programs
# and calls it. Needs root, debootstrap and a Docker daemon.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
SUITE=bookworm # its systemd 252 still knows cgroup v1, which many machines have
SYSTEM_PACKAGES=systemd,systemd-sysv,dbus,iptables,iproute2,kmod,mount,procps,runc,ca-certificates
PYTHON_PACKAGES=python3,python3-venv,python-is-python3,ca-certificates
BIN=/usr/local/bin
OURS=aiinfra.invalid # before the images' names in Docker, which may have pulled the real ones
SEARCH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { echo "step: $*"; }

fail() {
  echo "$*" >&2
  exit 1
}

debian() { # NAME PACKAGES: a bare Debian with packages in WORK/NAME
  rm -rf "${WORK:?}/$1"
  # Its own default of a mirror, unless one is named.
  debootstrap --variant=minbase --include="$2" "$SUITE" "$WORK/$1" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  (cd "$WORK/$1" && rm -rf usr/share/{doc,man,locale,info} var/cache/apt/* var/lib/apt/lists/* var/log/*)
}

system() {
  say "installing the nodes' operating system, Debian $SUITE"
  debian system "$SYSTEM_PACKAGES"
}

python() {
  say "installing a small Debian with Python"
  debian python "$PYTHON_PACKAGES"
  tar -C "$WORK/python" -c . | docker import --change "ENV PATH=$SEARCH" \
    --change 'CMD ["python3"]' - "$PYTHON_TAG" >/dev/null
  rm -rf "$WORK/python"
}

image() { # NAME FOLDER [CHANGE]: make an image of a folder
  tar -C "$2" --owner=0 --group=0 -c . |
    docker import --change "ENV PATH=$SEARCH" ${3:+--change "$3"} - "$OURS/$1" >/dev/null
  rm -rf "$2"
}

program() { # NAME [PLACE]: a folder with one program
  local folder
  folder=$(mktemp -d "$WORK/image.XXXXXX")
  chmod 755 "$folder"
  install -D -m 755 "$PROGRAMS/$1" "$folder${2:-$BIN/$1}"
  echo "$folder"
}

proxy() { # kube-proxy runs iptables, which loads plugins, which have libraries of their own
  local folder plugins
  folder=$(program kube-proxy "$BIN/kube-proxy.program")
  install -m 755 "$HERE/kube-proxy" "$folder$BIN/kube-proxy"
  plugins=$(cd "$WORK/system" && echo usr/lib/*/xtables)
  {
    printf '%s\n' usr/sbin/xtables-{nft,legacy}-multi usr/bin/ln "$plugins"
    chroot "$WORK/system" sh -c "ldd /usr/sbin/xtables-*-multi /usr/bin/ln /bin/sh /$plugins/*.so" |
      grep -o '/[^ ]*\.so[^ :]*' | grep -v "^/$plugins/" | sed 's,^/,,'
    echo bin/sh
  } | sort -u | tar -C "$WORK/system" --dereference -c -T - | tar -C "$folder" -x
  mkdir "$folder/run" # iptables' lock
  echo "$folder"
}

images() {
  rm -rf "$WORK"/image.*
  local name tag
  # kubeadm knows which images it will ask for.
  "$PROGRAMS/kubeadm" config images list --kubernetes-version "$KUBERNETES" >"$WORK/images.wanted"
  while read -r name; do
    say "making the image $name"
    tag=${name##*/}
    case "${tag%%:*}" in
      kube-proxy) image "$name" "$(proxy)" ;;
      coredns) image "$name" "$(program coredns /coredns)" 'ENTRYPOINT ["/coredns"]' ;;
      pause) image "$name" "$(program pause /pause)" 'ENTRYPOINT ["/pause"]' ;;
      *) image "$name" "$(program "${tag%%:*}")" ;;
    esac
  done <"$WORK/images.wanted"
}

lay_files() { # the node's own files and programs onto its system
  local root=$WORK/system pause name
  pause=$(sed -n 's,.*/pause:,,p' "$WORK/images.wanted")
  cp -r --no-preserve=ownership "$HERE/files/." "$root/"
  chmod -R u=rwX,go=rX "$root/kind"
  chmod 755 "$root/kind/entrypoint" "$root"/usr/local/sbin/*
  sed -i "s/@PAUSE@/$pause/" "$root/etc/containerd/config.toml"
  echo "$KUBERNETES" >"$root/kind/version"
  for name in kubeadm kubelet kubectl; do install -m 755 "$PROGRAMS/$name" "$root/usr/bin/$name"; done
  for name in containerd containerd-shim-runc-v2 ctr crictl; do
    install -m 755 "$PROGRAMS/$name" "$root$BIN/$name"
  done
  for name in ptp loopback host-local portmap; do
    install -D -m 755 "$PROGRAMS/$name" "$root/opt/cni/bin/$name"
  done
  # What belongs to a machine, not to a container.
  chroot "$root" systemctl --quiet mask getty.target console-getty.service systemd-logind.service \
    systemd-remount-fs.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-journal-flush.service dev-hugepages.mount sys-kernel-{config,debug,tracing}.mount \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
  chroot "$root" systemctl --quiet set-default multi-user.target
  chroot "$root" systemctl --quiet enable containerd kubelet pod-network
}

node() {
  local base=$TAG-base maker=${TAG//[\/:]/-} names name
  mapfile -t names <"$WORK/images.wanted"
  say "making the node from its system"
  lay_files
  tar -C "$WORK/system" -c . | docker import - "$base" >/dev/null
  printf '%s\n' "FROM $base" "ENV PATH=$SEARCH" 'ENTRYPOINT ["/kind/entrypoint"]' \
    "STOPSIGNAL SIGRTMIN+3" | docker build --quiet --tag "$base" - >/dev/null # systemd's word to halt
  say "putting ${#names[@]} images into it"
  docker rm -f -v "$maker" >/dev/null 2>&1 || true # of a build that was killed
  # shellcheck disable=SC2064
  trap "docker rm -f -v $maker >/dev/null 2>&1 || true" EXIT
  docker run --detach --name "$maker" --network none --entrypoint "$BIN/containerd" "$base" >/dev/null
  for _ in $(seq 300); do
    docker exec "$maker" ctr version >/dev/null 2>&1 && break
    sleep 0.1
  done
  docker save "${names[@]/#/$OURS/}" |
    docker exec -i "$maker" ctr -n k8s.io images import --no-unpack --all-platforms - >/dev/null
  for name in "${names[@]}"; do
    docker exec "$maker" ctr -n k8s.io images tag "$OURS/$name" "$name" >/dev/null ||
      fail "containerd has not taken the image $name"
  done
  docker exec "$maker" ctr -n k8s.io images rm "${names[@]/#/$OURS/}" >/dev/null
  docker stop --time 10 "$maker" >/dev/null
  say "writing the image $TAG"
  docker commit --change 'ENTRYPOINT ["/kind/entrypoint"]' "$maker" "$TAG" >/dev/null
  docker rm -f -v "$maker" >/dev/null
  trap - EXIT
  docker image rm "$base" "${names[@]/#/$OURS/}" >/dev/null
}

[ $# -gt 0 ] || fail "usage: build.sh system|images|node|python ..."
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"
: "${WORK:?the folder of this build}"
umask 022
mkdir -p "$WORK"
for step in "$@"; do
  case "$step" in
    system | images | node | python) ;;
    *) fail "there is no step $step" ;;
  esac
  [ ! -e "$WORK/$step.done" ] || continue
  "$step"
  touch "$WORK/$step.done"
done
