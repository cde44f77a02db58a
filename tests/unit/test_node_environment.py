"""Variables as Kubernetes makes them: references, sources, fields, and what is missing."""

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from node_builders import CORE, FakeApi, make_container, make_pod

from aiinfra_lab.kube.node.api import ApiError
from aiinfra_lab.kube.node.problems import ConfigProblem
from aiinfra_lab.kube.node.provision.environment import Environment, expand, expand_strictly
from aiinfra_lab.kube.node.provision.sources import Sources

CAPACITY = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi"}


def environment(api=None, pod=None):
    return Environment(Sources(api or FakeApi()), CAPACITY, pod or make_pod(), "127.64.0.1")


async def variables(container, api=None, pod=None, **given_):
    return await environment(api, pod).variables(make_container(**container), given_)


# The cases are those that Kubernetes' own expansion is defined by, in other words.
@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "a"),
        ("x$(A)y$(B)", "xay"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$$$$(A)", "$$(A)"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$($(A)", "$($(A)"),
        ("$(A)$(A", "a$(A"),
        ("$()", "$()"),
        ("$(a b)", "spaced"),
        ("$(LOOP)", "$(A)"),
        ("$(A))", "a)"),
        ("$?$(A)", "$?a"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text, expanded):
    known = {"A": "a", "B": "", "a b": "spaced", "LOOP": "$(A)"}
    assert expand(text, known) == expanded


def by_the_letter(text, known):
    """Kubernetes' own way, letter by letter."""
    done, cursor = "", 0
    while cursor < len(text):
        rest = text[cursor + 1 :]
        if text[cursor] != "$" or not rest:
            done, cursor = done + text[cursor], cursor + 1
        elif rest[0] == "$":
            done, cursor = done + "$", cursor + 2
        elif rest[0] == "(" and ")" in rest:
            name = rest[1 : rest.index(")")]
            done, cursor = done + known.get(name, f"$({name})"), cursor + len(name) + 3
        else:
            done, cursor = done + "$" + rest[0], cursor + 2
    return done


@law(deadline=None, max_examples=400)
@given(st.text(alphabet="$()AB\n", max_size=12))
def test_any_text_is_expanded_as_letter_by_letter(text):
    known = {"A": "1", "B": "$(A)", "AB": ""}
    assert expand(text, known) == by_the_letter(text, known)


def test_a_sub_path_needs_all_its_variables():
    assert expand_strictly("runs/$(A)/$$(B)", {"A": "1"}) == "runs/1/$(B)"
    with pytest.raises(ConfigProblem, match="missing value for B, C"):
        expand_strictly("$(C)/$(B)/$(A)", {"A": "1", "B": ""})


async def test_a_value_sees_what_stands_before_it_and_what_is_given():
    env = [
        {"name": "A", "value": "$(B) $(GIVEN)"},
        {"name": "B", "value": "1"},
        {"name": "C", "value": "$(B)"},
        {"name": "B", "value": "$(B)2"},
        {"name": "GIVEN", "value": "own"},
        {"name": "D", "value": "$(GIVEN)"},
        {"name": "EMPTY"},
    ]
    found = await variables({"env": env}, GIVEN="g")
    own = {"A": "$(B) g", "B": "12", "C": "1", "D": "own", "EMPTY": "", "GIVEN": "own"}
    assert found == own


async def test_env_goes_before_env_from_and_both_before_what_is_given():
    api = FakeApi()
    api.config_map("cm", A="cm", B="cm", C="cm")
    api.secret("s", B=b"s")
    found = await variables(
        {
            "envFrom": [{"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
            "env": [{"name": "A", "value": "$(B)!"}],
        },
        api,
        C="given",
        D="given",
    )
    assert found == {"A": "s!", "B": "s", "C": "cm", "D": "given"}


async def test_env_from_takes_a_prefix_and_every_key_but_binary_ones():
    api = FakeApi()
    api.config_map("cm", {"blob": b"\0\1"}, **{"app.name": "x", "1st": "y"})
    found = await variables({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}]}, api)
    assert found == {"P_app.name": "x", "P_1st": "y"}


async def test_keys_of_config_maps_and_secrets():
    api = FakeApi()
    api.config_map("cm", key="text")
    api.secret("s", key=b"\xffbytes")
    selectors = {
        "A": {"configMapKeyRef": {"name": "cm", "key": "key"}},
        "B": {"secretKeyRef": {"name": "s", "key": "key"}},
        "C": {"configMapKeyRef": {"name": "cm", "key": "none", "optional": True}},
        "D": {"secretKeyRef": {"name": "none", "key": "key", "optional": True}},
    }
    env = [{"name": name, "valueFrom": selector} for name, selector in selectors.items()]
    found = await variables({"env": env}, api)
    assert found.keys() == {"A", "B"}
    assert found["A"] == "text"
    assert found["B"].encode("utf-8", "surrogateescape") == b"\xffbytes"
    paths = [path for path, _ in api.calls]
    assert paths.count(f"{CORE}/configmaps/cm") == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"envFrom": [{"configMapRef": {"name": "no"}}]}, 'configmap "no" not found'),
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, 'secret "no" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]},
            "couldn't find key k in ConfigMap lab/cm",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "couldn't find key k in Secret lab/s",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"key": "k"}}}]},
            "comes from fileKeyRef, which this node cannot read",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]},
            "unsupported fieldPath: spec.x",
        ),
        ({"envFrom": [{"secretRef": {"name": "nul"}}]}, "'A' cannot be set"),
        ({"envFrom": [{"prefix": "X=", "secretRef": {"name": "s"}}]}, "'X=A' cannot be set"),
    ],
)
async def test_what_is_missing_is_said_as_kubernetes_says_it(fields, sentence):
    api = FakeApi()
    api.config_map("cm")
    api.secret("s", A=b"1")
    api.secret("nul", A=b"\0")
    with pytest.raises(ConfigProblem) as problem:
        await variables(fields, api)
    assert sentence in str(problem.value)
    assert problem.value.reason == "CreateContainerConfigError"


async def test_optional_excuses_a_missing_source_only_and_only_where_it_stands():
    wanted = {"envFrom": [{"secretRef": {"name": "s", "optional": True}}]}
    assert await variables(wanted) == {}
    strict = wanted | {
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}}]
    }
    with pytest.raises(ConfigProblem, match='secret "s" not found'):
        await variables(strict)
    api = FakeApi({f"{CORE}/secrets/s": ApiError("no relationship", status=403)})
    with pytest.raises(ConfigProblem, match="no relationship"):
        await variables(wanted, api)
    api.away = True
    with pytest.raises(ConfigProblem, match="nobody answers"):
        await variables(wanted, api)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "lab"),
        ("metadata.uid", "uid-p"),
        ("metadata.labels['app']", "x"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['a.b/c']", "it's ['so']"),
        ("spec.nodeName", "n0"),
        ("spec.serviceAccountName", "default"),
        ("status.podIP", "127.64.0.1"),
        ("status.podIPs", "127.64.0.1"),
        ("status.hostIP", "127.0.0.1"),
        ("status.hostIPs", "127.0.0.1"),
    ],
)
async def test_fields_of_the_pod(path, value):
    pod = make_pod()
    pod["metadata"] |= {"labels": {"app": "x"}, "annotations": {"a.b/c": "it's ['so']"}}
    env = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}]
    assert await variables({"env": env}, pod=pod) == {"A": value}


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", None, "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.cpu", "1m", "0"),
        ("limits.memory", "1Mi", "8192"),  # the node's
        ("limits.ephemeral-storage", "1Gi", "100"),  # the node's
        ("requests.memory", "1Mi", "2"),
        ("requests.memory", "0", "1048577"),
        ("requests.ephemeral-storage", None, "0"),
    ],
)
async def test_resources_are_rounded_up_and_a_missing_limit_is_the_nodes(resource, divisor, value):
    selector = {"resource": resource} | ({"divisor": divisor} if divisor else {})
    container = {
        "env": [{"name": "A", "valueFrom": {"resourceFieldRef": selector}}],
        "resources": {"limits": {"cpu": "1500m", "memory": "0"}, "requests": {"memory": "1048577"}},
    }
    assert await variables(container) == {"A": value}


async def test_a_resource_of_another_container_or_of_another_kind():
    other = make_container("other", resources={"limits": {"cpu": "3"}})
    pod = make_pod(containers=[make_container(), other])

    def asking(**selector):
        return {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": selector}}]}

    found = await variables(asking(resource="limits.cpu", containerName="other"), pod=pod)
    assert found == {"A": "3"}
    with pytest.raises(ConfigProblem, match="container none not found"):
        await variables(asking(resource="limits.cpu", containerName="none"), pod=pod)
    with pytest.raises(ConfigProblem, match="unsupported container resource"):
        await variables(asking(resource="limits.gold"))
