"""What clients send and are told, as OpenAPI shows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Drawn", "Failure", "Picture", "SampleFormat", "SampleRequest"]

SampleFormat = Literal["png", "npz", "json"]
Picture = Literal["png", "npz"]
Label = Annotated[int, Field(ge=0)] | str


class SampleRequest(BaseModel):
    """Samples to draw."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"model": "mnist", "n": 16, "seed": 0, "labels": 7, "format": "png"}]},
    )

    model: str = Field(description="The name of a model, as GET /v1/models says it.")
    n: int = Field(ge=1, description="How many samples.")
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Sample k of a seed is always the same. Without one: a seed of the server's."
    )
    first: int = Field(0, ge=0, lt=2**32, description="Index of the first sample of the seed.")
    labels: Label | list[Label] | None = Field(
        None,
        description="The class to draw, by number or name, or one for each sample; random: drawn with each; "
        "null: all classes together, as the model learnt them without labels.",
    )
    inference_steps: int | list[float] | None = Field(
        None, description="N, or a decreasing grid of times such as [1, 0.5, 0]; null is the model's default."
    )
    mean_flow_steps: int | None = Field(None, description="M of each inference step; null is the model's default.")
    guidance: float = Field(1.0, description="Towards the labels: above 1 more like their class than the data.")
    format: SampleFormat = Field("png", description="png: a grid; npz: float32 x [n, *shape]; json: nested lists.")


class Drawn(BaseModel):
    """Samples as JSON, and all that it takes to draw them again."""

    model: str
    digest: str = Field(description="SHA-256 of the model's file.")
    seed: int
    first: int
    n: int
    labels: list[int | None] | None
    inference_steps: int | list[float]
    mean_flow_steps: int
    guidance: float
    command: str = Field(description="The line that draws them at home.")
    x: list[object] = Field(description="[n, *shape], images in [-1, 1].")


class Failure(BaseModel):
    """What is wrong with a request; of a bound, it says the bound."""

    error: str
