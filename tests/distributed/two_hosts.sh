#!/usr/bin/env bash
# Two hosts of our own: network namespaces with an address each, joined by a
# cable of their own, each with its own sshd. `two_hosts.sh COMMAND...` runs
# one rank of COMMAND on each, as horovodrun does on a cluster: over ssh.
# LAUNCHER=mpirun takes mpirun instead. Needs root, iproute2 and sshd.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root, for network namespaces"; exit 77; }
for tool in ip ssh sshd ssh-keygen unshare; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
		{ echo "needs $tool"; exit 77; }
done
PATH=$PATH:/usr/sbin:/sbin
name=ka$$
work=$(mktemp -d)
cleanup() {
	for host in a b; do
		[ -e "$work/$host.pid" ] && kill "$(cat "$work/$host.pid")" || true
		ip netns delete "$name$host" || true
		rm -rf "/etc/netns/$name$host"
	done
	rm -rf "$work"
} 2>/dev/null
trap cleanup EXIT

for host in a b; do # `ip netns exec` puts these in the place of /etc/hosts.
	mkdir -p "/etc/netns/$name$host"
	printf '127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n' \
		>"/etc/netns/$name$host/hosts"
done
ip netns add "${name}a" || { echo "cannot make network namespaces"; exit 77; }
ip netns add "${name}b"
# The same name on both, as launchers expect of a cluster.
ip link add ka0 netns "${name}a" type veth peer name ka0 netns "${name}b"
number=1
ssh-keygen -q -t ed25519 -N "" -f "$work/key"
mkdir -p /run/sshd
for host in a b; do
	ip -n "$name$host" addr add "10.77.0.$number/24" dev ka0
	ip -n "$name$host" link set ka0 up
	ip -n "$name$host" link set lo up
	# Each a name of its own: launchers tell hosts apart by it.
	ip netns exec "$name$host" unshare --uts sh -c "
		hostname host$number
		exec $(command -v sshd) -o ListenAddress=10.77.0.$number \
			-o HostKey=$work/key -o PidFile=$work/$host.pid -f /dev/null \
			-o AuthorizedKeysFile=$work/key.pub -o StrictModes=no \
			-o UsePAM=no -o PermitRootLogin=yes -o PermitUserEnvironment=no"
	number=$((number + 1))
done
cat >"$work/config" <<END
Host *
	IdentityFile $work/key
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
	LogLevel ERROR
END
# Launchers call `ssh`, and read no configuration that could be given to them.
mkdir "$work/bin"
printf '#!/bin/sh\nexec %s -F %s "$@"\n' "$(command -v ssh)" "$work/config" \
	>"$work/bin/ssh"
chmod +x "$work/bin/ssh"
export PATH="$work/bin:$PATH"

hosts="10.77.0.1:1,10.77.0.2:1"
if [ "${LAUNCHER:-horovodrun}" = mpirun ]; then
	launch=(mpirun -np 2 -H "$hosts" --mca btl_tcp_if_include 10.77.0.0/24
		--mca oob_tcp_if_include 10.77.0.0/24 --mca btl tcp,self
		--mca plm_rsh_agent "$work/bin/ssh"
		-x PATH -x PYTHONPATH -x KERAS_BACKEND -x OMP_NUM_THREADS
		-x TF_CPP_MIN_LOG_LEVEL)
else
	launch=(horovodrun --gloo -np 2 -H "$hosts"
		--network-interfaces ka0)
fi
echo "== ${launch[0]} on two hosts, 10.77.0.1 and 10.77.0.2"
ip netns exec "${name}a" unshare --uts sh -c 'hostname host1; exec "$@"' \
	sh "${launch[@]}" "$@"
echo "== bytes through the cable"
ip -n "${name}a" -s -j link show ka0 |
	sed -E 's/.*"rx":\{"bytes":([0-9]+).*"tx":\{"bytes":([0-9]+).*/received \1, sent \2/'
