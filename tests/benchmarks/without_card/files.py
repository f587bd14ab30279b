"""The DeepSpeed files whose steps are looked at, and which of them with captured micro steps."""

#: What is added to the name of a file whose micro steps are captured.
CAPTURED = ", captured"
FILES = (
    *(file + CAPTURED for file in ("zero0_bf16_autocast", "zero1_bf16", "zero1_fp16")),
    *("zero0_bf16_autocast", "zero1_bf16", "zero1_fp16", "zero2_bf16", "zero2_fp16"),
)
