"""Contact sheets of the most confident mistakes and of the hardest images of a split."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from cv_jax.inspect import mistakes, network
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject

COUNT, COLUMNS = 24, 6


def look_at_errors(subject: Subject) -> list[Finding]:
    """The most confident mistakes and the hardest images, with predicted and true names."""
    subject.require_classes()
    if subject.split is None:
        raise DoesNotApply("it needs a split of labelled images: --split")
    probabilities, labels, pixels = [], [], []
    for batch in subject.split():
        logits, _ = network.features(subject.model, subject.variables, *batch["inputs"])
        probabilities.append(np.asarray(jax.nn.softmax(logits)))
        labels.append(batch["label"])
        pixels.append(batch["pixels"])
    probabilities, labels, pixels = map(np.concatenate, (probabilities, labels, pixels))
    wrong = mistakes.confident_mistakes(probabilities, labels, COUNT)
    hard = mistakes.hardest(probabilities, labels, COUNT)
    total = int((probabilities.argmax(axis=1) != labels).sum())
    text = f"{total} of {len(labels)} images are wrong ({total / len(labels):.2%})"
    findings = []
    if wrong:
        title = f"The {len(wrong)} most confident mistakes: predicted, true; {text}"
        mean = np.mean([x.confidence for x in wrong])
        findings.append(
            Finding(
                "mistakes",
                f"{text}; the {len(wrong)} most confident have a mean probability of {mean:.1%}",
                _drawn(subject, wrong, pixels, title),
                _rows(subject, wrong),
            )
        )
    title = f"The {len(hard)} images with the smallest probability of their class"
    smallest = f"the hardest image has a probability of {hard[0].probability:.2%} for its class"
    findings.append(
        Finding("hardest", smallest, _drawn(subject, hard, pixels, title), _rows(subject, hard))
    )
    return findings


def sheet(pictures: Sequence[tuple[np.ndarray, str]], title: str) -> Figure:
    """Return a contact sheet.

    Args:
      pictures: image uint8 [H, W, C] and caption of each picture; at least one.
      title: of the sheet.
    """
    columns = min(len(pictures), COLUMNS)
    figure, axes = figures.panels(-(-len(pictures) // columns), columns, title, height=3.5)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (pixels, caption) in zip(axes.flat, pictures, strict=False):
        axis.set_axis_on()
        figures.show(axis, pixels, caption)
    return figure


def _drawn(subject, examples, pixels, title):
    def caption(example):
        predicted, true = (subject.class_name(k) for k in (example.prediction, example.label))
        return f"{predicted} {example.confidence:.1%}\ntrue: {true} {example.probability:.1%}"

    return sheet([(pixels[example.index], caption(example)) for example in examples], title)


def _rows(subject, examples):
    return [
        {
            **example._asdict(),
            "label": subject.class_name(example.label),
            "prediction": subject.class_name(example.prediction),
        }
        for example in examples
    ]
