"""Captions over CLIP's tokens: the numbers are CLIP's own, the text comes back, and only what is read is learnt."""

from dataclasses import replace

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from crossflow.errors import CrossFlowError
from crossflow.modalities.clip_text import CLIPTextConfig, CLIPTokens, clip_tokens
from crossflow.modalities.text_autoencoder import PAD, vary

CAPTIONS = ["A man riding a wave, isn't he?", "Two dogs on a sofa.", "crème brûlée & cake"]


def test_tokens_are_clips_own():
    for caption in CAPTIONS:
        start, *tokens, end = [each for each in SimpleTokenizer()([caption])[0].tolist() if each]
        assert (start, end) == (49406, 49407)
        assert clip_tokens(caption) == tokens
        assert CLIPTokens().encode([caption], 77)[0].tolist()[: len(tokens)] == [each + 1 for each in tokens]


def test_a_caption_comes_back_in_lower_case():
    ids = CLIPTokens().encode(CAPTIONS, 77)
    texts = [CLIPTokens().decode([each for each in row if each != PAD]) for row in ids.tolist()]
    assert texts == ["a man riding a wave, isn't he?", "two dogs on a sofa.", "crème brûlée& cake"]


def test_a_text_of_no_token_is_refused():
    with pytest.raises(CrossFlowError, match=r"The text ' ' has no token of CLIP's"):
        CLIPTokens().encode(["a dog", " "], 77)


def test_a_long_caption_is_cut_where_clip_cuts_it():
    long = " ".join(["dog"] * 100)
    own = CLIPTokens().encode([long], 77)[0]
    assert (own != PAD).sum() == (SimpleTokenizer()([long])[0] != 0).sum() - 2 == 75


def test_what_is_not_known_is_one_token_and_leaves_no_text():
    known = tuple(sorted(set(clip_tokens(CAPTIONS[1]))))
    vocabulary = CLIPTokens(known)
    ids = vocabulary.encode(["Two cats on a sofa."], 77)[0]
    assert vocabulary.size == len(known) + 1
    assert ids.tolist()[1] == vocabulary.size
    assert vocabulary.decode(ids[ids != PAD].tolist()) == "two on a sofa."


@pytest.mark.parametrize("known", [(5, 5), (-1,), (49_406,)])
def test_tokens_that_clip_has_not_are_refused(known):
    with pytest.raises(CrossFlowError, match="known has tokens twice, or such as CLIP has not"):
        CLIPTextConfig(width=8, depth=1, heads=1, known=known)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    known = tuple(sorted({token for caption in CAPTIONS for token in clip_tokens(caption)}))
    return CLIPTextConfig(width=16, depth=1, heads=2, known=known).build((2, 4, 4))


def test_the_loss_is_that_of_the_text_and_of_the_position_that_ends_it(model):
    """The oracle takes the logits of all positions and keeps those that are read."""
    ids = model.tokenize(CAPTIONS)
    noise = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    posterior = model.encode(ids)
    logits = model.decoder(posterior.sample(noise))
    total, count = 0.0, 0
    for row, words in zip(logits, ids, strict=True):
        for place in range(int((words != PAD).sum()) + 1):
            total, count = total - row[place].log_softmax(0)[words[place]], count + 1
    sums = 0.5 * (posterior.mean.square() + posterior.log_var.exp() - 1 - posterior.log_var).flatten(1).sum(1)
    assert model.reach(ids, noise).loss.item() == pytest.approx((total / count + 1e-5 * sums.mean()).item(), rel=1e-5)


def test_a_token_is_embedded_by_the_row_that_predicts_it(model):
    assert not any(name.startswith("embed.") for name, _ in model.named_parameters())
    model.zero_grad()
    model.encode(model.tokenize(CAPTIONS[1:2])).mean.sum().backward()
    rows = model.decoder.head.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert set(rows) >= set(model.tokenize(CAPTIONS[1:2])[0].tolist()) - {PAD}


def test_a_few_captions_are_learnt_and_come_back(model):
    ids = model.tokenize(CAPTIONS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(80):
        optimizer.zero_grad()
        model.reach(ids, torch.randn(3, 2, 4, 4, generator=generator)).loss.backward()
        optimizer.step()
    found = model.decode(model.config.scale * model.encode(ids).mean)
    assert found == ["a man riding a wave, isn't he?", "two dogs on a sofa.", "crème brûlée& cake"]


def test_a_share_of_texts_is_continued_by_another_and_of_tokens_replaced():
    """Laws: none at 0; at 1 every text goes on with the one before and no place keeps its token but by chance."""
    torch.manual_seed(0)
    lengths = torch.tensor([3, 5, 0, 9])
    words = torch.where(torch.arange(9) < lengths[:, None], torch.arange(1, 10), PAD)
    assert torch.equal(vary(words, 0.0, 9), words)
    varied = vary(words, 1.0, 10_000)
    assert (varied != PAD).sum(1).tolist() == [9, 8, 5, 9]
    assert ((varied == words) & (words != PAD)).sum() == 0
    long = torch.ones(400, 50, dtype=torch.long)
    long[:, 25:] = PAD
    seen = vary(long, 0.3, 10_000)
    continued = (seen[:, 49] != PAD).double().mean()
    assert abs(continued - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5
    replaced = (seen[:, :25] != 1).double().mean()
    assert abs(replaced - 0.3) < 4 * (0.3 * 0.7 / 10_000) ** 0.5


def test_a_varied_text_moves_the_loss_and_never_the_latents(model):
    """In training alone; with the same seed the same."""
    ids = model.tokenize(CAPTIONS)
    noise = torch.randn(3, *model.encoder.shape, generator=torch.Generator().manual_seed(0))
    varied = replace(model.config, varied=0.5).build(model.encoder.shape)
    varied.load_state_dict(model.state_dict())
    plain = model.train().reach(ids, noise)
    torch.manual_seed(1)
    one = varied.train().reach(ids, noise)
    torch.manual_seed(1)
    again = varied.reach(ids, noise)
    assert torch.equal(one.latents, plain.latents) and not one.latents.requires_grad
    assert one.loss == again.loss != plain.loss
    assert varied.eval().reach(ids, noise).loss == model.eval().reach(ids, noise).loss
    with pytest.raises(CrossFlowError, match=r"varied is 1\.5; it is a share"):
        replace(model.config, varied=1.5).build(model.encoder.shape)
