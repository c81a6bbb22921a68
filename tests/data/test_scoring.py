"""The soft score against its definition over ten humans, and the scores of predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.data.scoring import accuracy, prediction_scores, vqa_soft_score


@pytest.mark.parametrize("matches", range(11))
def test_soft_score_is_the_mean_over_ten_humans(matches: int) -> None:
    humans = [True] * matches + [False] * (10 - matches)
    shares = [min(1.0, (sum(humans) - human) / 3) for human in humans]
    assert vqa_soft_score(matches) == pytest.approx(sum(shares) / 10)


@pytest.mark.parametrize("matches", [-1, 11])
def test_impossible_counts_are_refused(matches: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 10"):
        vqa_soft_score(matches)


@given(st.integers(1, 20), st.integers(1, 8), st.randoms(use_true_random=False))
def test_scores_are_the_targets_of_the_predictions(questions: int, answers: int, random) -> None:
    targets = np.array([[random.random() for _ in range(answers)] for _ in range(questions)], dtype=np.float32)
    predicted = np.array([random.randrange(answers) for _ in range(questions)])
    scores = prediction_scores(predicted, targets)
    assert scores.tolist() == [targets[row, answer] for row, answer in enumerate(predicted)]
    assert accuracy(predicted, targets) == pytest.approx(100 * scores.mean(), rel=1e-6)
