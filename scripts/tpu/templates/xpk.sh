#!/usr/bin/env bash
# A template, to be copied and filled in: a run on GKE by xpk (pip install xpk, and docker), which
# Google recommends beside managed instance groups, and which TPU7x needs. Nobody has run it. GKE
# tells each container who it is, by TPU_WORKER_HOSTNAMES and TPU_WORKER_ID (docs/hosts.md), and
# starts all of them anew when one fails, so that the run resumes.
set -euo pipefail

project=my-project zone=europe-west4-a cluster=my-cluster
name=switch-base bucket=gs://my-bucket type=v6e-256

# Once; it goes on to cost money until: xpk cluster delete --cluster=...
xpk cluster create --project=$project --zone=$zone --cluster=$cluster --tpu-type=$type \
  --num-slices=1 --spot

# xpk puts the folder at hand into an image on top of this one. worker.sh is not needed: there is
# Python 3.11, and who is who comes from GKE. What ends badly is started anew, up to ten times; a
# status of 2 is a user's mistake, which ends all of these within minutes: see the log.
command="SWITCH_TF_LOCK=tpu bash -c 'set -e; source scripts/setup.sh' && \
PATH=\$PWD/.venv-tpu/bin:\$PATH switch-tf train --gin_file=models/switch_base.gin \
--gin_file=slices/v6e_256.gin --gin_file=runs/paper_pretrain.gin \
--gin.GROUPS_MULTIPLE=128 --gin.MODEL_DIR=\"'$bucket/$name'\" \
--gin.VOCABULARY_PATH=\"'$bucket/t5.model'\" --gin.USE_CACHED_TASKS=True \
--gin.CACHE_DIR=\"'$bucket/cache'\""
xpk workload create --project=$project --zone=$zone --cluster=$cluster --workload=$name \
  --tpu-type=$type --num-slices=1 --base-docker-image=python:3.11 --script-dir=. \
  --max-restarts=10 --command="$command"

# A container that was killed leaves MODEL_DIR/in_use behind, for which the next ones are refused with
# status 2. If no other run has that MODEL_DIR: gcloud storage rm MODEL_DIR/in_use, and create the
# workload again. The machines cost money until the cluster is deleted, whether anything runs or not.
# xpk workload list --cluster=..., xpk workload delete --cluster=... --workload=...
