"""Scores of answers: VQA's soft score, the score of predictions, and the floor that needs no picture.

Shapes: B questions, A answers.
"""

from collections import defaultdict

import numpy as np

from suite.data.store import DataSet

SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)


def vqa_soft_score(matches: int) -> float:
    """Score of an answer that `matches` of the ten humans gave: 0, .3, .6, .9, then 1.

    It is the mean over the ten humans of min(1, matches among the other nine / 3). Raises ValueError for a
    count that ten humans cannot have.
    """
    if not 0 <= matches <= 10:
        raise ValueError(f"matches is {matches}; expected a count from 0 to 10, of the ten human answers.")
    return SOFT_SCORES[min(matches, 4)]


def prediction_scores(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Score of each predicted answer: `predicted` (B,) answer ids, `targets` (B, A); returns (B,)."""
    return np.take_along_axis(targets, np.asarray(predicted, dtype=np.int64)[:, None], axis=1)[:, 0]


def accuracy(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Mean score of the predictions in per cent: `predicted` (B,) answer ids, `targets` (B, A)."""
    return 100.0 * float(prediction_scores(predicted, targets).mean(dtype=np.float64))


def question_prior(dataset: DataSet, train_splits: tuple[str, ...], test_split: str) -> float:
    """Accuracy in per cent of giving each question text its most frequent training answer.

    Frequency is the sum of the soft scores; of equal ones the answer met first in training counts. A text
    that training never saw gets the most frequent answer of all. Raises DataError for an unknown split.
    """
    text = dataset.questions("text")["text"].to_numpy()
    train, test = dataset.rows(*train_splits), dataset.rows(test_split)
    of_text: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    overall: defaultdict[int, float] = defaultdict(float)
    position, labels, scores = dataset.scored_answers(train)
    for asked, label, score in zip(text[train[position]], labels.tolist(), scores.tolist(), strict=True):
        of_text[asked][label] += score
        overall[label] += score
    likeliest = {asked: max(sums, key=sums.__getitem__) for asked, sums in of_text.items()}
    otherwise = max(overall, key=overall.__getitem__)
    predicted = np.array([likeliest.get(asked, otherwise) for asked in text[test]])
    position, labels, scores = dataset.scored_answers(test)
    return 100.0 * float(scores[labels == predicted[position]].sum(dtype=np.float64)) / len(test)
