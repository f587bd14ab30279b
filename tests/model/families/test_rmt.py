"""Memory tokens around any causal model: all of a segment sees those read, those written see it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import segment_of
from family_models import V, toy, unread

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.model.build import build_model

M, D = 3, 16


def texts(n_rows: int = 3, tgt_len: int = 7) -> torch.Tensor:
    return torch.randint(V, (n_rows, tgt_len), generator=torch.Generator().manual_seed(1))


def random_memory(n_rows: int = 3) -> torch.Tensor:
    return torch.randn(n_rows, M, D, generator=torch.Generator().manual_seed(2)).double()


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as refused:
        build_model(ModelConfig(kind="rmt", options=options), vocabulary_size=V, seed=0)
    return str(refused.value)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen3", "bert"])
def test_a_row_is_the_model_s_own_reading_of_memory_tokens_and_text(architecture: str) -> None:
    model, memory = toy("rmt", architecture=architecture).eval(), random_memory()
    tokens_BT, lengths = texts(), [7, 0, 4]
    segment = segment_of(tokens_BT, lengths=lengths)
    log_probs_BTV, after = model.predict(segment, memory)
    for row, length in enumerate(lengths):
        if length == 0:
            assert torch.equal(after[row], memory[row])
            continue
        read, write = memory[row] + model.tokens_2MD
        embedded = model.model.get_input_embeddings()(tokens_BT[row, :length])
        whole = torch.cat([read, embedded, write])[None]
        expected = model.model(inputs_embeds=whole, output_hidden_states=True)
        logits = expected.logits[0, M : M + length]
        torch.testing.assert_close(log_probs_BTV[row, :length], logits.log_softmax(-1))
        torch.testing.assert_close(after[row], expected.hidden_states[-1][0, M + length :])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen3", "bert"])
def test_who_sees_whom(architecture: str) -> None:
    model, memory, tokens_BT = toy("rmt", architecture=architecture), random_memory(), texts()
    segment = segment_of(tokens_BT)
    seen, after = model.predict(segment, memory)
    other, _ = model.predict(segment, memory.flip(1))
    assert (other - seen).abs().amax(-1).min() > 1e-6  # memory is seen by every token
    for place in range(7):
        changed_BT = tokens_BT.clone()
        changed_BT[:, place] = (changed_BT[:, place] + 1) % V
        other, written = model.predict(segment_of(changed_BT), memory)
        torch.testing.assert_close(other[:, :place], seen[:, :place])
        assert (written - after).abs().amax(-1).min() > 1e-6  # and what is written sees each


def saved_model(folder: Path) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V + 9,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def test_it_begins_from_a_folder_with_the_corpus_s_vocabulary(tmp_path: Path) -> None:
    saved = saved_model(tmp_path)
    config = ModelConfig(kind="rmt", options={"pretrained": str(tmp_path), "n_memory": 2})
    model: Any = build_model(config, vocabulary_size=V, seed=0).eval()
    tokens_BT, memory = texts(2, 5), unread(model, 2, torch.float32)
    with torch.no_grad():
        log_probs_BTV, _ = model.predict(segment_of(tokens_BT), memory)
        read_BMD = model.tokens_2MD[:1].expand(2, -1, -1)
        embedded_BTD = saved.get_input_embeddings()(tokens_BT)
        logits = saved(inputs_embeds=torch.cat([read_BMD, embedded_BTD], dim=1)).logits
    expected = logits[:, 2:, :V].log_softmax(-1)
    torch.testing.assert_close(log_probs_BTV, expected)
    with pytest.raises(InputError, match="reads at most 12 positions, and a segment"):
        model.predict(segment_of(texts(2, 9)), memory)


def test_sizes_are_known_before_weights_are_there(tmp_path: Path) -> None:
    saved_model(tmp_path)
    for options in ({"d_model": 8, "n_layer": 1}, {"pretrained": str(tmp_path)}):
        config = ModelConfig(kind="rmt", options=options)
        with torch.device("meta"):
            unmade = build_model(config, vocabulary_size=V, seed=0)
        made = build_model(config, vocabulary_size=V, seed=0)
        shapes = [
            {name: p.shape for name, p in model.named_parameters()} for model in (unmade, made)
        ]
        assert shapes[0] == shapes[1]


def test_what_transformers_does_not_have_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no causal model 'lama' (did you mean 'llama'?)" in refusal(architecture="lama")
    assert "no causal model 'vit'" in refusal(architecture="vit")
    assert "architecture 'mamba' has no num_attention_heads" in refusal(architecture="mamba")
    assert "model.options.pretrained " in refusal(pretrained=str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "install the extra hf" in refusal()


def test_no_code_of_a_folder_runs(tmp_path: Path) -> None:
    saved_model(tmp_path)
    config = tmp_path / "config.json"
    named = '{"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, '
    config.write_text(config.read_text().replace("{", named, 1).replace('"llama"', '"own"'))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    assert "model.options.pretrained " in refusal(pretrained=str(tmp_path))
