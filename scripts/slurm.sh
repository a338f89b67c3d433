#!/usr/bin/env bash
# A run on a Slurm cluster that outlives the end of its time, being preempted and a node that fails:
#
#     sbatch scripts/slurm.sh --config config.yaml
#
# Arguments go to train.py, which begins, or goes on from its newest checkpoint. For several GPUs of a machine:
#
#     sbatch --gres=gpu:8 --cpus-per-task=80 --mem=0 --export=ALL,LAUNCHER="uv run torchrun --nproc-per-node=8" \
#         scripts/slurm.sh --config config.yaml
#
#SBATCH --job-name=redimnet-mrl
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=10
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# USR1 comes 180 s before the end of the time. Processes under torchrun have 30 s from then on to save.
#SBATCH --signal=B:USR1@180
set -uo pipefail

read -ra launcher <<<"${LAUNCHER:-uv run python}"
out_of_time=no
interrupted=no
run=

pass_on() {
    interrupted=yes
    [ -n "$run" ] && kill -TERM "$run" 2>/dev/null
}
# Slurm sends USR1 here 180 s before the end of the time, and TERM where it takes the job off the machine.
trap 'out_of_time=yes; pass_on' USR1
trap pass_on TERM

"${launcher[@]}" train.py --resume auto "$@" &
run=$!
while :; do # a trap cuts a wait short, with a code of its own
    interrupted=no
    wait "$run"
    code=$?
    [ "$interrupted" = yes ] || break
done

# One that was preempted is queued again by Slurm itself; one that has run to its end has nothing left to do.
if [ "$out_of_time" = yes ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
