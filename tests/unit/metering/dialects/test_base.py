"""Types shared by all dialects: errors, counting tasks."""

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects.base import SSE, DialectError, count_task


def test_errors_carry_their_parameter():
    """A DialectError has a message and the member it concerns."""
    error = DialectError("must be a string", "model")
    assert (error.message, error.param, str(error)) == (
        "must be a string",
        "model",
        "must be a string",
    )


def test_tasks_know_the_request():
    """A counting task starts with the request's sizes and the stated usage."""
    facts = RequestFacts("chat", prompt_bytes=7, prompt_tokens_known=2)
    task = count_task(facts, "from-path", SSE, Usage(1))
    assert (task.model, task.prompt_bytes, task.prompt_tokens_known) == (
        "from-path",
        7,
        2,
    )
    assert task.stated == Usage(1)
