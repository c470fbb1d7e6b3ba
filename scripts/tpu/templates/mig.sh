#!/usr/bin/env bash
# A template, to be copied and filled in: a run on a slice of Compute Engine's managed instance
# groups, which Google recommends for v5p and later, as the TPU API is no longer developed (v4 and
# older have only that one). Nobody has run it. The group makes its machines anew when they are lost;
# each then sets itself up and starts the run, which resumes. When the run ends for good, or cannot
# go on, a machine copies its log to the bucket and resizes the group to 0, which ends the
# cost: the service account needs the role Compute Instance Admin (v1) for this.
set -euo pipefail

project=my-project zone=europe-west4-a region=europe-west4
name=switch-base bucket=gs://my-bucket
# v6e-256: 64 machines of four chips. See https://cloud.google.com/tpu/docs/v6e for others.
machine=ct6e-standard-4t topology=16x16 machines=64
account=switch-tf@$project.iam.gserviceaccount.com
train="switch-tf train --gin_file=models/switch_base.gin --gin_file=slices/v6e_256.gin \
--gin_file=runs/paper_pretrain.gin --gin.GROUPS_MULTIPLE=128 --gin.MODEL_DIR=\"'$bucket/$name'\" \
--gin.VOCABULARY_PATH=\"'$bucket/t5.model'\" --gin.USE_CACHED_TASKS=True \
--gin.CACHE_DIR=\"'$bucket/cache'\""

# The project at the commit at hand, for machines that come later.
git archive --format=tar.gz --output=source.tar.gz HEAD
gcloud storage cp source.tar.gz scripts/tpu/worker.sh "$bucket/code/"

# Runs at each start of a machine. Status 0 is the end, 2 a mistake, of which another try makes
# nothing better; after all others the same command resumes (docs/hosts.md), but not if it has ended
# within half an hour ten times in a row.
cat > startup.sh << END
#!/usr/bin/env bash
export HOME=/opt/switch_tf_home
mkdir -p \$HOME && cd \$HOME

end_all() {
  echo "switch_tf: \$1: the group is resized to 0; the log will be in $bucket/logs"
  # The others end, too, and save what they save.
  sleep 120
  gcloud storage cp switch_tf_run/log.txt "$bucket/logs/$name-\$(hostname).txt"
  until gcloud compute instance-groups managed resize "$name" --project=$project --zone=$zone --size=0
  do
    echo "switch_tf: the group still costs money: delete it by hand"
    sleep 60
  done
  exit
}

tries=0
until gcloud storage cp "$bucket/code/*" . && bash worker.sh set_up; do
  (( ++tries < 20 )) || end_all "the set-up has failed 20 times"
  sleep 30
done
tries=0
while :; do
  began=\$SECONDS
  bash worker.sh start $train
  while [[ \$(bash worker.sh state) == *state=running* ]]; do sleep 30; done
  told=\$(bash worker.sh state)
  [[ \$told =~ status=(0|2|126|127)\  ]] && end_all "the run has ended: \$told"
  (( SECONDS - began < 1800 )) || tries=0
  (( ++tries < 10 )) || end_all "the run has failed ten times in a row: \$told"
  sleep 30
done
END

gcloud compute resource-policies create workload-policy "$name" --project=$project --region=$region \
  --type=HIGH_THROUGHPUT --accelerator-topology=$topology
# For a reservation or on-demand: --provisioning-model=STANDARD.
gcloud compute instance-templates create "$name" --project=$project \
  --instance-template-region=$region --machine-type=$machine --provisioning-model=SPOT \
  --instance-termination-action=STOP --maintenance-policy=TERMINATE --boot-disk-size=200GB \
  --image-project=ubuntu-os-accelerator-images \
  --image-family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e \
  --service-account="$account" --scopes=cloud-platform --metadata-from-file=startup-script=startup.sh
# A slice comes as a whole or not at all: bulk. Google Cloud SDK 528 does not know the last two flags
# yet.
gcloud compute instance-groups managed create "$name" --project=$project --zone=$zone --size=0 \
  --template="projects/$project/regions/$region/instanceTemplates/$name" \
  --workload-policy="projects/$project/regions/$region/resourcePolicies/$name" \
  --target-size-policy-mode=bulk
gcloud compute instance-groups managed resize "$name" --project=$project --zone=$zone --size=$machines

# To look, to stop, and to delete what costs money:
#   gcloud compute instance-groups managed list-instances NAME --project=... --zone=...
#   gcloud compute ssh MACHINE --project=... --zone=... --command='sudo tail -F /opt/switch_tf_home/switch_tf_run/log.txt'
#   gcloud compute instance-groups managed delete NAME --project=... --zone=...
