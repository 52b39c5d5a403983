"""Text as latents and back, against its definitions and the world's captions."""

from dataclasses import replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.modalities.text_autoencoder import TextAutoencoder, TextAutoencoderConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.scenes import WORDS
from crossflow.scenes.caption import describe
from crossflow.scenes.splits import example


@pytest.fixture(scope="module")
def text() -> TextAutoencoder:
    torch.manual_seed(0)
    sizes = {"count": 32, "width": 16, "depth": 1, "heads": 2}
    return TextAutoencoder(TextAutoencoderConfig(words=WORDS, kl_weight=1e-3, scale=0.35, **sizes), (4, 2, 2))


def test_every_caption_of_the_world_has_its_numbers(text):
    for index in range(120):
        item = example("train", index)
        for caption in (*item.captions, describe(item.scene)):
            numbers = text.tokenize([caption])[0]
            words = [text.config.words[number - 1] for number in numbers if number]
            assert " ".join(words).replace(" ,", ",") == caption


def test_the_longest_description_fits_the_recipe():
    own = CONFIGS["scenes-caption"].model
    autoencoder = TextAutoencoder(own.target, own.shape)
    four = next(e.scene for e in (example("train", i) for i in range(200)) if len(e.scene.objects) == 4)
    assert autoencoder.tokenize([describe(four)]).count_nonzero() == 17


@pytest.mark.parametrize(
    ("caption", "said"), [("a red ghost", "'ghost' is not in"), ("a " * 33, "has 33 words, and this model's have")]
)
def test_captions_that_do_not_fit(text, caption, said):
    with pytest.raises(CrossFlowError, match=said):
        text.tokenize([caption])


def test_the_autoencoders_loss_is_its_definition(text):
    words = text.tokenize(["a red ball by day", "a pink box, a blue ring and a cone"])
    noise = torch.randn(2, 4, 2, 2)
    posterior = text.encode(words)
    latents = posterior.mean + (posterior.log_var / 2).exp() * noise
    kl = 0.5 * (posterior.mean**2 + posterior.log_var.exp() - 1 - posterior.log_var).sum((1, 2, 3)).mean()
    scores = text.decoder(latents).log_softmax(-1)
    entropy = -scores.gather(2, words[..., None]).mean()
    learned = text.reach(words, noise)
    assert torch.allclose(learned.loss, entropy + 1e-3 * kl, atol=1e-6)
    assert torch.allclose(learned.latents, 0.35 * latents)
    assert not learned.latents.requires_grad


def test_a_plain_encoder_has_no_variance(text):
    plain = TextAutoencoder(replace(text.config, kl_weight=None), (4, 2, 2))
    words = plain.tokenize(["a red ball"])
    one, other = (plain.reach(words, noise) for noise in torch.randn(2, 1, 4, 2, 2))
    assert torch.equal(one.latents, other.latents)
    assert torch.isfinite(one.loss)


def test_padding_is_not_read(text):
    """What stands after a text's end changes no posterior."""
    words = text.tokenize(["a red ball"])
    before = text.encode(words).mean
    with torch.no_grad():
        text.embed.weight[0] += 1.0
    assert torch.equal(text.encode(words).mean, before)


def test_a_text_autoencoder_learns_to_read_itself():
    torch.manual_seed(1)
    model = TextAutoencoder(TextAutoencoderConfig(words=WORDS, count=10, width=32, depth=1, heads=2), (8, 2, 2))
    captions = ["a red ball by day", "two boxes", "a picture of a pink cone, at night"]
    words = model.tokenize(captions)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.reach(words, torch.randn(3, 8, 2, 2)).loss.backward()
        optimizer.step()
    assert model.decode(model.encode(words).mean) == captions
