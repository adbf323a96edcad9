"""A plan as text."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from openmae.console.words import several, si, size_of
from openmae.recipes.plan.estimate import Estimate, Scaled
from openmae.recipes.training.room import RUN_BYTES
from openmae.recipes.training.settings import shown
from openmae.train.cost import parameters


def show(estimate: Estimate, changes: Iterable[tuple[str, Estimate]], price: float | None, console: Console) -> None:
    """Prints it. price: of a device for an hour."""
    device = "machine" if estimate.device_type == "cpu" else "GPU"
    console.print()
    _show_run(estimate, price, device, console)
    console.print("\nWhat changes if you add (estimated from the operations, at the same speed):")
    table = _table("", "time", "times", "memory")
    here = estimate.scaled(estimate.gpus).hours
    table.add_row("this plan", time_of(here), "1.00", size_of(estimate.memory.total))
    for what, changed in changes:
        hours = changed.scaled(changed.gpus).hours
        table.add_row(what, time_of(hours), f"{hours / here:.2f}", size_of(changed.memory.total))
    console.print(table)
    console.print(f"\nOn more {device}s, the batch of {estimate.batch_size:,} shared among them (simulated):")
    table = _table(f"{device}s", "step", "efficiency", "time", f"{device} hours", *["cost"] * (price is not None))
    for scaled in estimate.scaling():
        cost = [] if price is None else [f"{scaled.device_hours * price:,.2f}"]
        step = f"{scaled.step:.3g} s" if scaled.step >= 1 else f"{scaled.step * 1000:.3g} ms"
        row = (step, f"{scaled.efficiency:.0%}", time_of(scaled.hours), hours_of(scaled), *cost)
        table.add_row(str(scaled.count), *row)
    console.print(table)
    console.print(
        f"Assumed: gradients in float32 go around a ring at {estimate.link / 1e9:g} GB/s (--link) while the last "
        f"backward pass is computed; each {device} is as fast with its share of the batch as with all of it; images "
        "load as fast as they are needed. Pictures and evaluations come on top.",
        soft_wrap=True,
    )


def _show_run(estimate: Estimate, price: float | None, device: str, console: Console) -> None:
    settings, scaled, flops = estimate.settings, estimate.scaled(estimate.gpus), estimate.flops
    encoder, decoder = parameters(estimate.architecture)
    (height, width), (rows, columns) = estimate.architecture.img_size, estimate.architecture.patch_size
    first = "" if settings.mask_schedule == "constant" else " at the first mask ratio"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row(
        "model",
        f"{settings.model}, {height} x {width} pixels in patches of {rows} x {columns}; "
        f"{si(encoder)} parameters, and {si(decoder)} in the decoder",
    )
    table.add_row(
        "length",
        f"{several(estimate.images, 'image')} x {shown(settings.epochs)} epochs in batches of "
        f"{estimate.batch_size:,}: {several(estimate.steps, 'step')}",
    )
    table.add_row(
        "work",
        f"{si(flops.step)}FLOP an image{first}, {flops.encoder / flops.forward:.0%} of it in the encoder; "
        f"{si(estimate.work)}FLOP in all",
    )
    table.add_row(
        "speed",
        f"{_rate(estimate.images_per_second)} images/s, {si(estimate.speed.rate)}FLOP/s: {estimate.speed.said}",
    )
    on = f" on {estimate.gpus} {device}s" if estimate.gpus > 1 else ""
    cost = "" if price is None else f", which cost {scaled.device_hours * price:,.2f}"
    table.add_row("time", f"{time_of(scaled.hours)}{on}, {hours_of(scaled)} {device} hours{cost}")
    memory = estimate.memory
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    said = ", ".join(f"{size_of(part)} {name}" for name, part in parts.items())
    table.add_row(
        "memory",
        f"{size_of(memory.total)} with {several(estimate.micro_batch, 'image')} at once: {said}, "
        f"{size_of(memory.activations)} activations",
    )
    table.add_row("", _fit(estimate, device))
    table.add_row("disk", f"{size_of((encoder + decoder) * RUN_BYTES)} for checkpoints")
    console.print(table)


def _fit(estimate: Estimate, device: str) -> str:
    usable = f"the {size_of(estimate.usable)} that a step may take of the {device}'s {size_of(estimate.room)}"
    largest = estimate.largest
    most = f"up to {several(largest, 'image')} at once would" if largest else "not even one image would"
    return f"{'fits' if estimate.memory.total <= estimate.usable else 'does not fit'} in {usable}; {most}"


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    return table


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def hours_of(scaled: Scaled) -> str:
    """Of all devices together."""
    return f"{scaled.device_hours:,.3g}" if scaled.device_hours < 100 else f"{scaled.device_hours:,.0f}"


def time_of(hours: float) -> str:
    """45 s, 12.5 min, 3.2 h, 12.0 days."""
    for unit, size, most in (("s", 3600, 1 / 60), ("min", 60, 1), ("h", 1, 48)):
        if hours < most:
            return f"{hours * size:.3g} {unit}"
    return f"{hours / 24:,.1f} days"
