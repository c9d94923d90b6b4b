"""The help page: constants only."""

from __future__ import annotations

HELP = """\
pybuild turns a Dockerfile into an OCI image: no daemon, no root.

Usage
  pybuild [build] [OPTIONS] CONTEXT      build the Dockerfile of a directory
  pybuild run [OPTIONS] IMAGE [CMD...]   start an image in the same sandbox
  pybuild bundle IMAGE DIR               write an image for runc or crun to start
  pybuild push IMAGE [AS]                send an image to its registry
  pybuild pull IMAGE                     fetch an image into the local store
  pybuild images | inspect | rmi         look at and remove local images
  pybuild login | logout [REGISTRY]      keep or drop a registry's credentials
  pybuild prune [--all]                  free what the cache no longer needs
  pybuild doctor [--json]                say what this host allows and what would help
  pybuild version                        print the version
  pybuild COMMAND --help                 the options of a command other than build

Build
  -f, --file FILE            Dockerfile (default CONTEXT/Dockerfile; - is standard input)
  -t, --tag NAME             name the image; repeat for more names
      --target STAGE         stop at this stage; repeated, all are built and the last is the result
      --platform P[,P...]    build for these platforms, such as linux/arm64
      --build-arg K[=V]      set an ARG; without =V taken from the environment
      --build-context N=V    let FROM and --from find N in a directory, an image or a URL
      --label K=V            add a label
      --annotation [T:]K=V   annotate the manifest, or what T names, such as index

Steps
      --secret id=ID[,src=PATH | ,env=NAME]
                             give RUN --mount=type=secret,id=ID its value
      --ssh ID[=SOCKET | =KEY,...]
                             give RUN --mount=type=ssh,id=ID an agent; "default" is yours
      --network MODE         network of RUN: default (the host's), none, host, or sandbox, which
                             reaches the world but not this host
      --add-host NAME:IP     add a line to /etc/hosts of RUN; host-gateway is this host
      --sandbox TIER         how RUN is kept in: auto (default), userns, single, chroot, emulate or
                             none, which refuses RUN
      --runtime NAME         run steps in an OCI runtime instead: runc, crun or a path
      --allow E              permit network.host, security.insecure or buildx.local.delete
      --shm-size SIZE        size of /dev/shm in RUN, such as 128m
      --ulimit NAME=S[:H]    limit a resource in RUN, such as nofile=1024:2048
  -m, --memory SIZE          memory of a step; --memory-swap is memory and swap together
      --cpus N               processors of a step, such as 1.5; also --cpu-quota, --cpu-period,
                             --cpu-shares (-c), --cpuset-cpus, --cpuset-mems
      --pids-limit N         processes of a step
      --resource NAME=VALUE  the same limits by name, such as memory=512m

Output
  -o, --output SPEC          type=oci|docker|local|tar|registry[,dest=PATH][,compression=gzip|zstd|
                             uncompressed]; a bare PATH is type=local; repeat for more
      --push                 push every name given with -t
      --load                 keep the image in the local store, as every build does
      --iidfile FILE         write the image ID there
      --metadata-file FILE   write digest, config and names there as JSON

Cache
      --no-cache             run every step again
      --no-cache-filter S,.. run the steps of these stages again
      --pull                 ask the registry for newer base images
      --cache-from SPEC      use what --cache-to of another machine wrote; repeat for more
      --cache-to SPEC        type=registry,ref=NAME or type=local,dest=DIR[,mode=min|max]: write
                             there what steps gave
      --explain              say of each step why it hit or missed the cache

Show
      --progress MODE        auto, plain, tty, rawjson, quiet or none
  -q, --quiet                print the image ID only
  -D, --debug                show warnings at length
      --check                look for mistakes and build nothing
      --call NAME[,format=json]
                             build nothing: check, outline (arguments and secrets), targets or
                             graph (every step)
      --insecure-registry H  speak plain http or unverified https to this host

Flags may stand anywhere: --tag NAME, --tag=NAME, -t NAME, -tNAME, --push=false.
State lives in --root DIR, which every command takes but login and logout, else $PYBUILD_ROOT, else
$XDG_DATA_HOME/pybuild, else ~/.local/share/pybuild, else /var/tmp/pybuild-UID or a volume.
Exit status: 0 done, 1 the build failed, 2 Dockerfile or usage, 3 this host cannot, 128+n ended by
signal n.
A context named like a sub-command is written ./push.
"""
