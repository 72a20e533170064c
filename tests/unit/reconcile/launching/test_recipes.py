import pytest

from mooring.core.objects import Metadata
from mooring.core.replicas import Capacity
from mooring.core.services import ModelService, ModelServiceSpec
from mooring.reconcile.launching.recipes import recipe_of, unfit

SMALL = Capacity(cpu=0.5, memory_mib=512, gpus=0)


def service(**resources):
    spec = {"model": {"source": "builtin", "name": "mooring-demo"}, "resources": resources, "replicas": 3}
    return ModelService(id="svc-1", metadata=Metadata(name="a"), spec=ModelServiceSpec.model_validate(spec))


def test_what_nobody_chose_runs_on_the_smallest_machine():
    assert unfit(service().spec, SMALL) == ""


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"cpu": 2}, "A replica wants 2 cores; this machine has 0.5."),
        ({"memory": "2Gi"}, "A replica wants 2.0 GiB of memory; this machine has 512 MiB."),
        ({"gpus": 1}, "A replica wants 1 GPU; this machine has 0."),
        ({"gpus": 2}, "A replica wants 2 GPUs; this machine has 0."),
    ],
)
def test_more_than_the_machine_has_is_named(resources, told):
    assert unfit(service(**resources).spec, SMALL) == told


def test_another_kind_of_call_is_another_recipe_for_the_engine_is_started_otherwise():
    def recipe(**fields):
        return recipe_of(ModelService(id="svc-1", metadata=Metadata(name="a"), spec=spec_of(**fields)))

    def spec_of(**fields):
        return ModelServiceSpec.model_validate({"model": {"source": "builtin", "name": "mooring-demo"}, **fields})

    assert (
        len({recipe(), recipe(types=["chat"]), recipe(types=["chat", "embedding"]), recipe(types=["embedding"])}) == 4
    )
    assert recipe(types=["chat", "embedding"]) == recipe(types=["embedding", "chat"])
    assert recipe() == recipe(replicas=3, description="other", limits={"rpm": 1})
