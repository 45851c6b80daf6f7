"""What the task files of the published benchmarks call: the rules of `extraction` as lmms-eval's scores and filters.

Where a judge model's key is in the environment, lmms-eval's own judge scores the same answers beside the rules. A
scorer that raises, whoever wrote it, loses one answer and not the task (`forgive`).
"""

from collections import defaultdict
from collections.abc import Callable
from functools import wraps

from lmms_eval.api.filter import Filter
from lmms_eval.api.task import ConfigurableTask
from loguru import logger
from tenacity import RetryError

from .extraction import is_right_mathverse, is_right_mathvista, is_right_mmbench, reasoned_answer
from .settings import has_judge

CIRCLE = 1_000_000  # MMBench asks a question again with its options moved round, under an index that much higher

NAMES = ("id", "pid", "question_id", "questionId", "sample_index", "index", "idx", "question")  # of a document
NO_ANSWER = {"loglikelihood": "[NaN, false]", "multiple_choice": "[NaN, false]"}  # by output type; else an empty text


def forgive(told: Callable[[str, str, str], None]) -> None:
    """Let lmms-eval's tasks count an answer whose scorer raises as no answer.

    lmms-eval 0.7.3 tries such a scorer five times, two seconds apart, and then ends the run.
    told: called with the task, the document and what was raised. The last call of this function holds.
    """
    raising = getattr(ConfigurableTask.process_results, "raising", ConfigurableTask.process_results)

    @wraps(raising)
    def process_results(task, doc, results, *rest, **options):
        try:
            return raising(task, doc, results, *rest, **options)
        except Exception as error:  # noqa: BLE001, scorers of benchmarks raise anything
            cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
            document = next((str(doc[name])[:60] for name in NAMES if name in doc), "without a name")
            problem = f"{type(cause).__name__}: {cause}"
            logger.opt(exception=cause).warning(
                f"document {document!r} of {task.config.task} counts as not answered, its scorer raised {problem}"
            )
            told(task.config.task, document, problem)
        return raising(task, doc, [NO_ANSWER.get(task.OUTPUT_TYPE, "")] * len(results), *rest, **options)

    process_results.raising = raising  # type: ignore[attr-defined]  # functions take attributes, their type has none
    ConfigurableTask.process_results = process_results


class ReasonedAnswer(Filter):
    """The answer behind the reasons, for DocVQA and InfoVQA."""

    def apply(self, resps, docs):
        """One text for each document's list of responses."""
        return [reasoned_answer(responses[0]) for responses in resps]


def mathvista(doc, results) -> dict:
    """Scores of one MathVista answer."""
    scores = {"rule_accuracy": float(is_right_mathvista(results[0], doc))}
    if has_judge():
        from lmms_eval.tasks.mathvista.utils import mathvista_process_results

        scores["llm_as_judge_eval"] = mathvista_process_results(doc, results)["llm_as_judge_eval"]
    return scores


def mathverse(doc, results) -> dict:
    """Scores of one MathVerse answer."""
    scores = {"rule_accuracy": float(is_right_mathverse(results[0], doc))}
    if has_judge():
        from lmms_eval.tasks.mathverse.utils import mathverse_process_results

        scores["gpt_eval_score"] = mathverse_process_results(doc, results)["gpt_eval_score"]
    return scores


def mmbench(doc, results) -> dict:
    """Scores of one MMBench answer; the rules' is put together by `circular_accuracy`."""
    scores = {"rule_accuracy": {"index": doc["index"], "is_right": is_right_mmbench(results[0], doc)}}
    if has_judge():
        from lmms_eval.tasks.mmbench.en_utils import mmbench_process_results

        scores["gpt_eval_score"] = mmbench_process_results(doc, results)["gpt_eval_score"]
    return scores


def circular_accuracy(results) -> float:
    """The share of questions that were answered right however their options were ordered."""
    rounds = defaultdict(list)
    for result in results:
        rounds[int(result["index"]) % CIRCLE].append(result["is_right"])
    return sum(map(all, rounds.values())) / len(rounds)
