#!/usr/bin/env bash
# Train the tiny model from random weights: the tower's sight, single things, whole pictures, signs and charts, tower and
# projector alone, then questions: all kinds first, then those that must be looked up, from one thing to whole pictures;
# then several pictures and clips, thoughts, and everything together; at last what pairs, clips and sums ask for, one by
# one, and everything again.
# An interrupted run goes on where it was: each stage resumes from its newest checkpoint, finished ones are kept.
# To start again: rm -r exp/tiny
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

# One process a GPU; without a GPU one process a core, with one thread each, which is faster than one with all cores.
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then processes=1; else processes=2; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processes == 2 ? 1 : $(nproc)))}

data() { # folder in data/toyworld, then its options
    [ -d "data/toyworld/$1" ] || "$python" -m llada_v.toyworld data "data/toyworld/$1" "${@:2}"
}

train() { # stage, then options of the data it learns from; none where its recipe names data that is there
    [ $# = 1 ] || data "$@"
    [ -f "exp/tiny/$1/model.safetensors" ] ||
        "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
            -m llada_v train "scripts/recipes/tiny/$1.yaml"
}

see() { # from, to, then options: the tower sees before it speaks, as SigLIP2 does; one thread a core
    local from=exp/tiny/$1 to=exp/tiny/$2
    shift 2
    [ -d "$to" ] || OMP_NUM_THREADS=$(nproc) "$python" -m llada_v.toyworld sight "$from" "$to" "$@"
}

[ -d exp/tiny/random ] || "$python" -m llada_v.toyworld model exp/tiny/random
see random glance --steps 1200
see glance sight --steps 2000 --seed 1
see sight reading --steps 3600 --seed 2
see reading order --steps 1600 --seed 3
train first_sight --style caption --count 6000 --kinds shapes --max-things 1
train captions --style caption --count 80000 --seed 1
train signs --style caption --count 24000 --kinds sign chart --seed 3
train pretrain --style caption --count 4000 --seed 2
train instruct --style instruct --count 60000 --max-turns 4
train polish
train single --style instruct --count 24000 --max-turns 1
train answers --style instruct --count 60000 --max-turns 4 --one-turn-each
train lookups --style instruct --count 20000 --max-turns 5 --one-turn-each --seed 5 --kinds shapes --max-things 3 \
    --families colour shape count relation yes_no
train mixed --style instruct --count 16000 --max-turns 4 --one-turn-each --seed 6

train two_things --style instruct --count 12000 --max-turns 6 --seed 11 --kinds shapes --max-things 2 \
    --families colour shape yes_no
# Many questions about one picture, each answered as if alone: from here on turns do not see each other.
train is_there --style instruct --count 12000 --max-turns 8 --rounds 8 --seed 21 --kinds shapes --max-things 1 \
    --families yes_no
train three_things --style instruct --count 12000 --max-turns 8 --rounds 3 --seed 22 --kinds shapes --max-things 3 \
    --families yes_no shape count relation
data questions --style instruct --count 30000 --max-turns 10 --seed 23 \
    --families colour shape count relation yes_no word chart
data shape_questions --style instruct --count 16000 --max-turns 10 --rounds 2 --seed 24 --kinds shapes \
    --families shape count relation yes_no
train si_10M
data drill_relations --style instruct --count 10000 --max-turns 10 --rounds 4 --seed 41 --kinds shapes --max-things 2 \
    --families relation
data drill_signs --style instruct --count 6000 --max-turns 8 --rounds 8 --seed 42 --kinds sign --families yes_no
data drill_charts --style instruct --count 6000 --max-turns 8 --rounds 8 --seed 43 --kinds chart --families relation
train drill
data sides --style instruct --count 6000 --max-turns 8 --rounds 4 --seed 44 --kinds shapes --max-things 2 \
    --families relation --answers yes no
data taller --style instruct --count 5000 --max-turns 8 --rounds 8 --seed 45 --kinds chart --families relation
train which_side
data pairs --style pairs --count 12000 --seed 31
data clips --style clips --count 8000 --seed 32
data reasoning --style reasoning --count 12000 --seed 33
data everything --style instruct --count 32000 --max-turns 8 --seed 51
data everything_alone --style instruct --count 14000 --max-turns 2 --one-turn-each --seed 52
train ov_2M
train vw
train mix_ov_vw

# From here on each turn also stands as when it is asked alone (`turn_canvas`): neither the number of masks nor the place
# of a question tells the answer.
train two_pictures --style pairs --count 6000 --max-turns 4 --lists --seed 67 --max-things 1
train which_picture --style pairs --count 8000 --max-turns 8 --rounds 4 --lists --seed 68 --max-things 1
train both_ends --style clips --count 8000 --max-turns 5 --lists --seed 66
train sums --style reasoning --count 5000 --max-turns 8 --rounds 4 --seed 63 --kinds chart
train both_show --style pairs --count 5000 --max-turns 8 --rounds 3 --seed 69 --max-things 3
train numbers --style numbers --count 5000 --max-turns 12 --rounds 12 --seed 90
data everything_again --style instruct --count 30000 --max-turns 8 --seed 87
data captions_alone --style instruct --count 12000 --max-turns 1 --seed 85 --families caption
data counts --style instruct --count 8000 --max-turns 8 --rounds 3 --seed 81 --kinds shapes --families count
data signs_again --style instruct --count 6000 --max-turns 8 --rounds 3 --seed 86 --kinds sign
data pairs_again --style pairs --count 16000 --max-turns 8 --rounds 2 --lists --seed 82
data pairs_alone --style pairs --count 1500 --max-turns 4 --one-turn-each --seed 91
data clips_again --style clips --count 12000 --max-turns 6 --lists --seed 83
data moving --style clips --count 4000 --max-turns 4 --rounds 4 --seed 70 --answers yes no
data reasoning_again --style reasoning --count 16000 --max-turns 4 --rounds 2 --seed 84
train all_families
train reckon
train reckon_again
data thoughts --style thoughts --count 5000 --max-turns 8 --rounds 8 --seed 92
train thoughts
train once_more

# What was still weak: reckoning from the thought alone, first about nothing, then about charts that are not shown and
# about those that are; which of two pictures shows a thing; and everything again, with more to reckon at last.
train made_up
train thinking
train which_of_two --style pairs --count 6000 --max-turns 8 --rounds 5 --lists --seed 97 --max-things 2 \
    --answers first second
train which_of_many --style pairs --count 8000 --max-turns 8 --rounds 4 --lists --seed 98 --answers first second
data unseen --style unseen --count 4000 --max-turns 8 --rounds 6 --seed 99 --kinds chart
train unseen
train final
train reckon_more
data shape_sums --style reasoning --count 3500 --max-turns 8 --rounds 4 --seed 102 --kinds shapes
train shape_counts

# Fresh pictures for all of it, and more of what went wrong most: which picture has fewer objects, sums, what moves, words.
data more_or_fewer --style pairs --count 6000 --max-turns 6 --rounds 3 --lists --seed 111 --asking "has more" "has fewer"
data shape_sums_again --style reasoning --count 6000 --max-turns 8 --rounds 5 --seed 110 --kinds shapes
data sums_again --style reasoning --count 6000 --max-turns 8 --rounds 5 --seed 112 --kinds chart
data moving_again --style clips --count 2500 --max-turns 4 --rounds 4 --seed 116 --asking "move?"
data everything_last --style instruct --count 8000 --max-turns 8 --seed 113
data captions_last --style instruct --count 4000 --max-turns 1 --seed 114 --families caption
data signs_last --style instruct --count 4000 --max-turns 8 --rounds 3 --seed 115 --kinds sign
data pairs_last --style pairs --count 4000 --max-turns 8 --rounds 2 --lists --seed 117
data counts_last --style instruct --count 3000 --max-turns 8 --rounds 3 --seed 118 --kinds shapes --families count
train last_drill
data words_alone --style instruct --count 6000 --max-turns 1 --seed 124 --kinds sign \
    --asking "What does the sign say" "Which word is"
data what_moves --style clips --count 4000 --max-turns 4 --rounds 4 --seed 125 --asking "Does the" "Which object"
data clips_last --style clips --count 2500 --max-turns 6 --lists --seed 126
data reckon_shapes --style reasoning --count 8000 --max-turns 8 --rounds 5 --seed 120 --kinds shapes
data reckon_charts --style reasoning --count 8000 --max-turns 8 --rounds 5 --seed 121 --kinds chart
data unseen_again --style unseen --count 2000 --max-turns 8 --rounds 6 --seed 127 --kinds chart
data everything_more --style instruct --count 9000 --max-turns 8 --seed 122
data pairs_more --style pairs --count 4000 --max-turns 8 --rounds 2 --lists --seed 123
data counts_more --style instruct --count 4000 --max-turns 8 --rounds 3 --seed 128 --kinds shapes --families count
train weak_spots
data captions_more --style instruct --count 6000 --max-turns 1 --seed 130 --families caption
data words_more --style instruct --count 4000 --max-turns 1 --seed 131 --kinds sign \
    --asking "What does the sign say" "Which word is"
data shape_sums_more --style reasoning --count 4000 --max-turns 8 --rounds 5 --seed 132 --kinds shapes
data counts_at_last --style instruct --count 3000 --max-turns 8 --rounds 3 --seed 133 --kinds shapes --families count
data relations_more --style instruct --count 3000 --max-turns 8 --rounds 4 --seed 134 --families relation
data fewer_again --style pairs --count 2500 --max-turns 6 --rounds 3 --lists --seed 135 --asking "has more" "has fewer"
data pairs_at_last --style pairs --count 2500 --max-turns 8 --rounds 2 --lists --seed 136
data everything_at_last --style instruct --count 4000 --max-turns 8 --seed 137
train finish
# The last two stages know different things best, and their mean nearly all of it.
[ -d exp/tiny/averaged ] || "$python" -m llada_v average exp/tiny/averaged exp/tiny/weak_spots exp/tiny/finish

mkdir -p model/llada-v-tiny
cp exp/tiny/averaged/*.json exp/tiny/averaged/model.safetensors exp/tiny/finish/recipe.yaml model/llada-v-tiny/
OMP_NUM_THREADS=$(nproc) "$python" -m llada_v judge --model model/llada-v-tiny
