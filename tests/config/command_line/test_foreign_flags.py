"""Every flag of the commands that this trainer replaces is answered, and truthfully."""

import re
from pathlib import Path

import pytest

from trainer.config.command_line import foreign_flags
from trainer.config.command_line.arguments import parse_train, train_flags
from trainer.config.deepspeed.file import packaged_names
from trainer.config.recipe import recipe_names
from trainer.errors import InputError

FAIRSEQ_TRAIN = """--user-dir examples/truncated_bptt data-bin/wikitext-103/
    --task truncated_bptt_lm --tokens-per-sample 150 --batch-size 15 --max-update 200000
    --arch transformer_xl --n-layer 16 --d-model 410 --n-head 10 --d-head 41 --d-inner 2100
    --dropout 0.1 --dropatt 0.0 --mem-len 150 --optimizer adam --clip-norm 0.25
    --lr-scheduler cosine --warmup-updates 0 --min-lr 0.0 --lr 0.00025 --log-format json
    --log-interval 25 --fp16 --update-freq=4"""
FAIRSEQ_EVAL = """data-bin/wikitext-103/ --path checkpoints/checkpoint_best.pt
    --user-dir examples/truncated_bptt/ --task truncated_bptt_lm --batch-size 1
    --required-batch-size-multiple 1 --model-overrides {"mem_len":640} --tokens-per-sample 64"""
FAIRSEQ_COMMON = """--max-tokens 1 --save-dir d --restore-file f --reset-optimizer --reset-meters
    --reset-lr-scheduler --reset-dataloader --distributed-world-size 4 --save-interval-updates 9
    --validate-interval-updates 9 --keep-interval-updates 2 --no-epoch-checkpoints --patience 3
    --wandb-project p --tensorboard-logdir d --adam-betas (0.9,0.98) --adam-eps 1e-8
    --weight-decay 0 --max-epoch 2 --fp16-init-scale 128 --num-workers 2 --ddp-backend c10d
    --clamp-len 400 --same-length --cutoffs 1 --div-val 1 --checkpoint-activations --cpu --bf16"""
KIMIYOUNG = """--cuda --dataset wt103 --adaptive --n_layer 16 --d_model 410 --n_head 10
    --d_head 41 --d_inner 2100 --dropout 0.1 --dropatt 0.0 --optim adam --lr 0.00025
    --warmup_step 0 --max_step 200000 --tgt_len 150 --mem_len 150 --eval_tgt_len 150
    --batch_size 60 --multi_gpu --gpu0_bsz 4 --d_embed 1 --init normal --emb_init normal
    --init_range 1 --emb_init_range 1 --init_std 1 --proj_init_std 1 --mom 0 --scheduler cosine
    --decay_rate 1 --lr_min 0 --clip 1 --clip_nonemb --batch_chunk 1 --ext_len 0 --not_tied
    --div_val 1 --pre_lnorm --varlen --log-interval 1 --eval-interval 1 --work_dir d --restart
    --restart_dir d --debug --same_length --attn_type 0 --clamp_len 1 --eta_min 0
    --max_eval_steps 1 --sample_softmax 1 --patience 1 --finetune_v2 --finetune_v3 --fp16
    --static-loss-scale 1 --dynamic-loss-scale --split test --no_log"""
NVIDIA = """--append_dataset --append_time --log_all_ranks --save-all --no_env
    --target_throughput 1 --target_perplexity 1 --vocab word --max_step_scheduler 1
    --weight_decay 0 --local_batch_size 1 --roll --eval_batch_size 1 --eval_max_steps 1
    --eval_interval 1 --log_interval 1 --dllog_file f --txtlog_file f --apex_amp_opt_level O2
    --affinity single --manual a --type pytorch --model m --optim jitlamb --max_size 1"""
HUGGING_FACE = """--per_device_train_batch_size 1 --gradient_accumulation_steps 1
    --learning_rate 1 --max_grad_norm 1 --warmup_steps 1 --warmup_ratio 0 --max_steps 1
    --num_train_epochs 1 --mem_len 1 --clamp_len 1 --proj_share_all_but_first --untie_r
    --output_dir d --resume_from_checkpoint c --deepspeed f --adam_beta1 1 --adam_beta2 1
    --adam_epsilon 1 --weight_decay 1 --lr_scheduler_type cosine --logging_steps 1 --save_steps 1
    --save_total_limit 1 --eval_steps 1 --evaluation_strategy steps --report_to wandb
    --run_name n --fp16 --bf16 --per_device_eval_batch_size 1 --model_name_or_path m
    --layer_norm_epsilon 1 --vocab_size 1 --cutoffs 1 --gradient_checkpointing --do_train"""
COMMANDS = {
    "fairseq-train": FAIRSEQ_TRAIN,
    "fairseq-eval-lm": FAIRSEQ_EVAL,
    "fairseq": FAIRSEQ_COMMON,
    "kimiyoung": KIMIYOUNG,
    "NVIDIA": NVIDIA,
    "Hugging Face": HUGGING_FACE,
}


def flags_of(command: str) -> list[str]:
    return re.findall(r"--[\w-]+", command)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_whole_command_of_another_system_is_answered_at_once(command: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_train(command.split())
    lines = str(caught.value).splitlines()
    for flag in flags_of(command):
        answers = [line for line in lines if line.startswith(f"{flag} (")]
        assert answers == foreign_flags.answer(flag)
        assert answers
    assert "no such flag" not in str(caught.value)


@pytest.mark.parametrize("system", foreign_flags.SYSTEMS)
def test_each_system_is_answered_in_its_own_name(system: str) -> None:
    command = {"fairseq": FAIRSEQ_TRAIN + FAIRSEQ_EVAL + FAIRSEQ_COMMON}.get(system)
    for flag in flags_of(command or COMMANDS[system]):
        assert any(system in line.partition(":")[0] for line in foreign_flags.answer(flag)), flag


def test_answers_name_only_flags_and_files_that_there_are() -> None:
    ours = {*train_flags(), "--deepspeed-config"}
    for _, _, here in foreign_flags.TABLE:
        assert here.startswith(("--", "none here: "))
        assert set(re.findall(r"--[a-z][\w.-]*\w", here)) <= ours
        assert set(re.findall(r"zero\d_\w+", here)) <= set(packaged_names())
        assert set(re.findall(r"wt103-\w+", here)) <= set(recipe_names())


def test_a_value_that_an_answer_gives_is_one_that_our_flag_takes() -> None:
    rest = ["quickstart", "--data", "corpus", "--run-dir", "run"]
    for _, _, here in foreign_flags.TABLE:
        words = here.partition(" (")[0].split()
        if here.startswith("--") and len(words) > 1:
            parse_train([*rest, *words])


def test_our_own_flags_are_not_foreign() -> None:
    for flag in train_flags():
        assert not foreign_flags.answer(flag), flag


def test_hyphens_underscores_and_values_make_no_difference() -> None:
    for spelling in ("--mem_len", "--mem-len", "--mem_len=150"):
        assert "--train.mem-len" in foreign_flags.answer(spelling)[0]


def test_a_flag_that_differs_between_systems_has_an_answer_for_each() -> None:
    fairseq, others = foreign_flags.answer("--batch-size")
    assert "(fairseq): here --train.train-micro-batch-size-per-gpu" in fairseq
    assert "(kimiyoung, NVIDIA): here --train.train-batch-size" in others


def test_no_flag_of_a_system_is_answered_twice() -> None:
    for system in foreign_flags.SYSTEMS:
        flags = [f for who, flags, _ in foreign_flags.TABLE if system in who for f in flags.split()]
        assert len(flags) == len(set(flags)), system


def test_the_readme_has_the_table() -> None:
    readme = Path(__file__).parents[3] / "trainer" / "config" / "MIGRATING.md"
    begin, end = "<!-- foreign flags: begin -->\n", "<!-- foreign flags: end -->"
    section = readme.read_text().partition(begin)[2].partition(end)[0]
    assert section.strip() == foreign_flags.markdown().strip()
