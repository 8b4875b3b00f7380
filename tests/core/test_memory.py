"""Queues, teachers and sample tables against naive lists and loops."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polycontrast.errors import CheckpointError
from polycontrast.memory import EmaTeacher, FeatureQueue, SampleTable
from polycontrast.schedules import Schedule


def rows(n: int, dim: int = 3, *, first: int = 0) -> Tensor:
    return (torch.arange(n * dim).view(n, dim) + 100 * first).float()


class NaiveRing:
    """One row at a time."""

    def __init__(self, size: int) -> None:
        self.slots: list[Any] = [None] * size
        self.at = 0

    def put(self, values: Tensor) -> None:
        for value in values:
            self.slots[self.at] = value.tolist()
            self.at = (self.at + 1) % len(self.slots)

    def valid(self) -> list[Any]:
        return [slot for slot in self.slots if slot is not None]


class TestFeatureQueue:
    @pytest.mark.parametrize("batches", [[3, 3, 3, 3, 3], [8, 1, 7], [5, 0, 5], [2, 9, 3], [8, 8], [1] * 19, [25, 1]])
    def test_ring(self, batches: list[int]) -> None:
        queue, naive = FeatureQueue(8, 3, extra={"labels": torch.int64}), NaiveRing(8)
        for step, n in enumerate(batches):
            batch = rows(n, first=step)
            queue.enqueue(batch, labels=batch[:, 0].long())
            naive.put(batch)
            assert queue.features.tolist() == naive.valid()
            assert queue["labels"].tolist() == [int(r[0]) for r in naive.valid()]
            assert queue.count == len(naive.valid())
            if n <= 8:
                assert int(queue.pointer) == naive.at
        assert queue.version == len(batches)

    def test_a_batch_larger_than_the_queue_leaves_its_last_rows(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(rows(11))
        assert sorted(queue.features.tolist()) == rows(11)[-4:].tolist()

    def test_reading_copies_nothing(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(rows(2))
        assert queue.features.untyped_storage().data_ptr() == queue.get_buffer("rows_features").data_ptr()

    def test_unfilled_rows_are_never_seen(self) -> None:
        queue = FeatureQueue(4, 3)
        assert queue.features.shape == (0, 3)
        queue.enqueue(rows(1))
        assert queue.features.shape == (1, 3)
        queue.clear()
        assert queue.count == 0

    def test_random_fill(self) -> None:
        queue = FeatureQueue(50, 3, extra={"labels": torch.int64}, fill="random", seed=4)
        assert queue.count == 50
        torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(50))
        assert queue["labels"].tolist() == [-100] * 50
        assert queue.features.equal(FeatureQueue(50, 3, fill="random", seed=4).features)

    def test_four_fields_one_pointer(self) -> None:
        queue = FeatureQueue(
            5, {"a": 3, "b": 2}, dtype=torch.float64, extra={"t": (torch.float32, 4), "ids": torch.int64}
        )
        for step in range(4):
            ids = torch.arange(3) + 3 * step
            queue.enqueue(
                a=ids[:, None].repeat(1, 3), b=ids[:, None].repeat(1, 2), t=ids[:, None].repeat(1, 4), ids=ids
            )
            for field in ("a", "b", "t"):
                assert queue[field][:, 0].long().equal(queue["ids"])
        assert queue["a"].dtype == torch.float64
        assert queue.features.data_ptr() == queue["a"].data_ptr()

    def test_loss_then_backward_then_enqueue(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(rows(4))
        x = torch.ones(2, 3, requires_grad=True)
        (x @ queue.features.T).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, rows(4).sum(0).expand(2, 3))

    def test_writing_before_backward_is_noticed(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(rows(4))
        x = torch.ones(2, 3, requires_grad=True)
        loss = (x @ queue.features.T).sum()
        queue.enqueue(rows(1))
        with pytest.raises(RuntimeError, match="inplace operation"):
            loss.backward()

    def test_later_waits_for_the_next_read(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(rows(4))
        x = torch.ones(2, 3, requires_grad=True)
        loss = (x @ queue.features.T).sum()
        batch = rows(3, first=1)
        queue.enqueue(batch, later=True)
        batch.zero_()  # the queue holds its own copy
        loss.backward()
        assert queue.features.tolist() == [*rows(3, first=1).tolist(), rows(4)[3].tolist()]

    def test_resume_with_pending_rows(self) -> None:
        def step(queue: FeatureQueue, k: int) -> None:
            queue.enqueue(rows(3, first=k), ids=torch.arange(3) + k, later=k % 2 == 0)

        def made() -> FeatureQueue:
            return FeatureQueue(8, 3, extra={"ids": torch.int64})

        straight = made()
        for k in range(9):
            step(straight, k)
            if k == 4:
                saved = {name: value.clone() for name, value in straight.state_dict().items()}
        resumed = made()
        resumed.load_state_dict(saved)
        for k in range(5, 9):
            step(resumed, k)
        assert straight.state_dict().keys() == resumed.state_dict().keys()
        for name, value in straight.state_dict().items():
            assert value.equal(resumed.state_dict()[name]), name
        assert straight.features.equal(resumed.features)

    def test_loading_nonsense(self) -> None:
        queue = FeatureQueue(4, 3)
        state = dict(queue.state_dict())
        state["filled"] = torch.tensor(9)
        with pytest.raises(CheckpointError, match="count 9, size 4"):
            queue.load_state_dict(state)

    def test_it_moves_and_copies(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(rows(3))
        twin = copy.deepcopy(queue)
        twin.enqueue(rows(3, first=2))
        assert queue.features.tolist() == rows(3).tolist()
        assert queue.double().features.dtype == torch.float64

    def test_keys_carry_no_gradient(self) -> None:
        queue = FeatureQueue(4, 3)
        queue.enqueue(torch.ones(2, 3, requires_grad=True) * 2)
        assert not queue.features.requires_grad

    def test_refusals(self) -> None:
        queue = FeatureQueue(4, 3, extra={"labels": torch.int64})
        with pytest.raises(ValueError, match="needs the fields features, labels, got features"):
            queue.enqueue(rows(2))
        with pytest.raises(ValueError, match=r"labels has shape \(3,\), the queue needs \(2,\)"):
            queue.enqueue(rows(2), labels=torch.zeros(3, dtype=torch.int64))
        with pytest.raises(ValueError, match="at least one row"):
            FeatureQueue(0, 3)
        with pytest.raises(ValueError, match="named in dim and in extra"):
            FeatureQueue(4, 3, extra={"features": torch.int64})
        with pytest.raises(KeyError, match="no field 'label'"):
            queue["label"]


def first(out: Any) -> Tensor:
    """Of a recurrent model's tuple."""
    tensor: Tensor = out[0] if isinstance(out, tuple) else out
    return tensor


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.tied = self.body[0]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


def shaken(student: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


class TestEmaTeacher:
    @pytest.mark.parametrize("buffers", ["copy", "ema", "skip"])
    def test_follows_like_a_loop(self, buffers: Any) -> None:
        student = Student().double()
        teacher = EmaTeacher(student, Schedule("cosine", 0.9, 1.0, steps=5), buffers=buffers)
        expected = {name: value.clone() for name, value in teacher.model.state_dict().items()}
        for k in range(6):
            shaken(student, k)
            student(torch.randn(8, 3, dtype=torch.float64))
            m = 1 - 0.1 * (math.cos(math.pi * min(k, 5) / 5) + 1) / 2
            assert teacher.update(student) == pytest.approx(m)
            for name, value in student.state_dict().items():
                buffer = "running" in name or "tracked" in name
                if not buffer or (buffers == "ema" and value.is_floating_point()):
                    expected[name] = m * expected[name] + (1 - m) * value
                elif buffers != "skip":
                    expected[name] = value.clone()
        for name, value in teacher.model.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)

    def test_it_never_learns_by_gradient_nor_leaves_evaluation(self) -> None:
        method = nn.Module()
        method.student = Student()
        method.teacher = EmaTeacher(method.student)
        method.train().requires_grad_(True)
        x = torch.randn(4, 3, requires_grad=True)
        assert not method.teacher.model.training
        assert not method.teacher(x).requires_grad
        assert method.teacher(x).equal(method.teacher(x))  # no dropout

    def test_optimisers_find_nothing_and_states_everything(self) -> None:
        student = Student()
        teacher = EmaTeacher(student)
        assert not list(teacher.parameters())
        assert {f"model.{name}" for name in student.state_dict()} < teacher.state_dict().keys()
        assert teacher.model.tied.weight is teacher.model.body[0].weight

    def test_recurrent_and_attention_models(self) -> None:
        for student in (nn.LSTM(3, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)):
            x = torch.randn(5, 2, 3 if isinstance(student, nn.LSTM) else 4)
            teacher = EmaTeacher(student, 0.0)
            shaken(student, 3)
            teacher.update(student)
            torch.testing.assert_close(first(teacher(x)), first(student.eval()(x)))
            twin = copy.deepcopy(teacher).double()
            torch.testing.assert_close(first(twin(x.double())).float(), first(teacher(x)))

    def test_with_the_mode_of_its_parent(self) -> None:
        teacher = EmaTeacher(Student(), evaluation=False)
        assert teacher.train().model.training
        assert not teacher.eval().model.training

    def test_half_precision_is_averaged_exactly(self) -> None:
        student = nn.Linear(50, 50).to(torch.bfloat16)
        teacher = EmaTeacher(student, 0.999)
        exact = student.weight.detach().float().clone()
        shaken(student, 0)
        for _ in range(500):
            teacher.update(student)
            exact = torch.lerp(exact, student.weight.detach().float(), 0.001)
        assert teacher.model.weight.dtype == torch.bfloat16
        torch.testing.assert_close(teacher.model.weight, exact.bfloat16())
        resumed = EmaTeacher(nn.Linear(50, 50).to(torch.bfloat16), 0.999)
        resumed.load_state_dict(teacher.state_dict())
        resumed.update(student), teacher.update(student)
        assert resumed.state_dict()["exact_weight"].equal(teacher.state_dict()["exact_weight"])

    def test_resume_goes_on_with_the_schedule(self) -> None:
        def made() -> tuple[Student, EmaTeacher]:
            torch.manual_seed(0)
            student = Student()
            return student, EmaTeacher(student, Schedule("cosine", 0.9, 1.0, steps=10))

        student, straight = made()
        for k in range(7):
            shaken(student, k)
            straight.update(student)
            if k == 3:
                saved = copy.deepcopy((student.state_dict(), straight.state_dict()))
        student, resumed = made()
        student.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        for k in range(4, 7):
            shaken(student, k)
            resumed.update(student)
        assert resumed.momentum == straight.momentum
        for name, value in straight.state_dict().items():
            assert value.equal(resumed.state_dict()[name]), name

    def test_copy_from(self) -> None:
        student = Student()
        teacher = EmaTeacher(student)
        shaken(student, 1)
        teacher.copy_from(student)
        assert teacher.model.body[0].weight.equal(student.body[0].weight)

    def test_refusals(self) -> None:
        teacher = EmaTeacher(nn.Linear(3, 4))
        with pytest.raises(ValueError, match="differ at 'weight'"):
            teacher.update(nn.Linear(2, 4))
        with pytest.raises(ValueError, match="when a model grows"):
            teacher.update(nn.Linear(3, 4, bias=False))
        with pytest.raises(ValueError, match="between 0 and 1"):
            EmaTeacher(nn.Linear(3, 4), 1.5)
        with pytest.raises(ValueError, match="copy, ema or skip"):
            EmaTeacher(nn.Linear(3, 4), buffers="average")  # type: ignore[arg-type]


class TestSampleTable:
    def test_write_read_and_repeated_ids(self) -> None:
        table = SampleTable(6, {"loss": torch.float64, "row": (torch.float32, 2)})
        table.write(torch.tensor([4, 1, 4]), loss=torch.tensor([1.0, 2.0, 3.0]), row=torch.arange(6.0).view(3, 2))
        assert table["loss"].tolist() == [0.0, 2.0, 0.0, 0.0, 3.0, 0.0]
        assert table.read("row", torch.tensor([4])).tolist() == [[4.0, 5.0]]
        assert table.written.nonzero().flatten().tolist() == [1, 4]

    def test_momentum_only_where_there_is_something(self) -> None:
        table = SampleTable(3, {"loss": torch.float64})
        table.write(torch.tensor([0]), loss=torch.tensor([1.0]))
        table.write(torch.tensor([0, 2]), loss=torch.tensor([5.0, 5.0]), momentum=0.75)
        assert table["loss"].tolist() == [2.0, 0.0, 5.0]

    def test_nothing_to_write(self) -> None:
        table = SampleTable(3, {"loss": torch.float64})
        table.write(torch.zeros(0, dtype=torch.int64), loss=torch.zeros(0))
        assert not table.written.any()

    def test_refusals(self) -> None:
        table = SampleTable(3, {"loss": torch.float64})
        with pytest.raises(ValueError, match="ids must be 0 to 2, got -1 to 3"):
            table.write(torch.tensor([-1, 3]), loss=torch.zeros(2))
        with pytest.raises(KeyError, match="no field 'l'"):
            table["l"]
