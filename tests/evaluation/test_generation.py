import pytest
import torch
from tiny_models import make_model, make_tokenizer, make_tokens
from transformers import GenerationConfig

from prunerzero.evaluation.generation import continue_greedily
from prunerzero.models.compute import compute_for


def go_on(model, dense, window, prompt=6):
    computes = compute_for(model, "float32"), compute_for(dense, "float32")
    return continue_greedily(model, dense, make_tokenizer(), "t", window, prompt, *computes)


def by_hand(model, ids, count):
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids[None]).logits[0, -1].argmax()[None]])
    return ids[-count:]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_write_what_is_likeliest(family):
    tokenizer, window = make_tokenizer(), make_tokens(1, 16)[0]
    dense, model = make_model(family), make_model(family, seed=1)
    for each in (dense, model):
        each.generation_config.eos_token_id = None
    found = go_on(model, dense, window)
    assert found.prompt == tokenizer.decode(window[:6])
    assert found.text == tokenizer.decode(window[6:])
    written, other = by_hand(model, window[:6], 10), by_hand(dense, window[:6], 10)
    assert (found.model, found.dense) == (tokenizer.decode(written), tokenizer.decode(other))
    assert found.same_tokens == int((written == other).long().cumprod(0).sum()) < 10
    assert go_on(dense, dense, window).same_tokens == 10


def test_a_models_own_settings_do_not_matter_and_stay():
    window, model, dense = make_tokens(1, 16)[0], make_model(), make_model(seed=1)
    plain = go_on(model, dense, window)
    own = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=9.0, eos_token_id=0)
    model.generation_config = own
    assert go_on(model, dense, window) == plain
    assert model.generation_config is own
