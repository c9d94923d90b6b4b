"""The help page: constants only."""

from __future__ import annotations

HELP = """\
pybuild turns a Dockerfile into an OCI image: no daemon, no root.

Usage
  pybuild [build] [OPTIONS] CONTEXT      build the Dockerfile of a directory
  pybuild run [OPTIONS] IMAGE [CMD...]   start an image in the same sandbox
  pybuild push IMAGE [AS]                send an image to its registry
  pybuild pull IMAGE                     fetch an image into the local store
  pybuild images | inspect | rmi         look at and remove local images
  pybuild login | logout [REGISTRY]      keep or drop a registry's credentials
  pybuild prune [--all]                  free what the cache no longer needs
  pybuild version                        print the version

Build
  -f, --file FILE            Dockerfile (default CONTEXT/Dockerfile; - is standard input)
  -t, --tag NAME             name the image; repeat for more names
      --target STAGE         stop at this stage
      --build-arg K[=V]      set an ARG; without =V taken from the environment
      --label K=V            add a label
      --platform P           build for this platform, such as linux/arm64
      --secret id=ID[,src=PATH | ,env=NAME]
                             give RUN --mount=type=secret,id=ID its value
      --network MODE         network of RUN: default, none or host
      --add-host NAME:IP     add a line to /etc/hosts of RUN

Output
  -o, --output SPEC          type=oci|docker|local|tar|registry[,dest=PATH][,compression=gzip|zstd|
                             uncompressed]; a bare PATH is type=local; repeat for more
      --push                 push every name given with -t
      --iidfile FILE         write the image ID there
      --metadata-file FILE   write digest, config and names there as JSON

Cache
      --no-cache             run every step again
      --pull                 ask the registry for newer base images
      --explain              say of each step why it hit or missed the cache

Show
      --progress MODE        auto, plain, tty, rawjson or quiet
  -q, --quiet                print the image ID only
      --call graph           print the build graph and build nothing
      --insecure-registry H  speak plain http or unverified https to this host

State lives in $PYBUILD_ROOT, else $XDG_DATA_HOME/pybuild, else ~/.local/share/pybuild.
Exit status: 0 done, 1 the build failed, 2 Dockerfile or usage, 3 this host cannot.
A context named like a sub-command is written ./push.
"""
