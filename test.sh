#!/usr/bin/env bash
# Runs every test: unit, property, documentation, fuzz corpus, real kernel, real peers, and the lab.
# Needs Linux, a C compiler and Rust. On Debian, as root, missing peers are installed; elsewhere the tests that
# want them are skipped, and the last lines name them.
set -euo pipefail
cd "$(dirname "$0")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# program:package
peers="nft:nftables ip:iproute2 bird:bird2 vtysh:frr gobgpd:gobgpd exabgp:exabgp \
etcd:etcd-server etcdctl:etcd-client strace:strace iptables:iptables podman:podman \
crun:crun busybox:busybox-static /usr/lib/cni/portmap:containernetworking-plugins"
missing=""
for peer in $peers; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${peer%%:*}" >/dev/null || missing="$missing ${peer##*:}"
done
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # Packages must not start daemons here: the tests start their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; own_policy=1; fi
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing; } \
    >"$log" 2>&1 || { echo "could not install:$missing"; tail -n 3 "$log"; }
  [ -z "${own_policy:-}" ] || rm -f "$policy"
fi
export PATH="$PATH:/usr/sbin:/sbin"

status=0
run() {
  echo "== $*"
  set +e
  "$@" 2>&1 | tee -a "$log" | grep -vE '^(test .* \.\.\. ok|running [0-9]+ tests?|successes:|)$'
  [ "${PIPESTATUS[0]}" = 0 ] || status=1
  set -e
}
: >"$log"
run cargo test --workspace --all-features --locked --no-fail-fast -- --show-output
run cargo test --manifest-path fuzz/Cargo.toml --locked
run cargo run --release --locked --bin calico-lab

passed=$(grep -oE '[0-9]+ passed' "$log" | awk '{n+=$1} END{print n+0}')
failed=$(grep -oE '[0-9]+ failed' "$log" | awk '{n+=$1} END{print n+0}')
skipped=$(grep -cE '^skipped: ' "$log" || true)
grep -E '^skipped: ' "$log" | sort -u || true
if [ "$skipped" != 0 ] && [ -n "${CI:-}" ]; then
  echo "nothing may be skipped in CI"
  status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
