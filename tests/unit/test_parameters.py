from __future__ import annotations

import base64
import re

import pytest

from oneflower_appliance.flower.commands import node_config_text
from oneflower_appliance.form import Group
from oneflower_appliance.formats import split_node_config
from oneflower_appliance.parameter import Kind, Level
from oneflower_appliance.parameters import PARAMETERS, form_fields, of_level
from oneflower_appliance.removed import REMOVED
from oneflower_appliance.settings import Bounds, InvalidParametersError, ignored, resolve

INVALID = {
    "FLOWER_VERSION": ["", "1.41", "latest", "0.9.0", "1.25.0", "1.41.0; rm -rf /"],
    "FL_TLS_ENABLED": ["yes", "true", "1", ""],
    "FL_SUPERNODE_AUTH": ["", "yes"],
    "FL_LOG_LEVEL": ["info", "TRACE", ""],
    "FL_LOG_FORMAT": ["xml", ""],
    "FL_NUM_ROUNDS": ["0", "-1", "three", "1.5", ""],
    "FL_STRATEGY": ["fedavg", "Median", ""],
    "FL_MIN_FIT_CLIENTS": ["0", "two", ""],
    "FL_MIN_EVALUATE_CLIENTS": ["0", "-2"],
    "FL_MIN_AVAILABLE_CLIENTS": ["0", "1", "x"],
    "FL_MODEL": ["two words", "a;b", "resnet 18"],
    "FL_SERVER_DATA_PATH": ["relative", '/with"quote', "/data\\"],
    "FL_DATA_PATH": ["relative", '/with"quote', "/with'quote", "data", "/with\\backslash", "/data\\"],
    "FL_PROXIMAL_MU": ["-0.1", "mu", "nan", "inf"],
    "FL_SERVER_LR": ["0", "-1", ""],
    "FL_CLIENT_LR": ["0", "fast"],
    "FL_NUM_MALICIOUS": ["-1", "0.5"],
    "FL_TRIM_BETA": ["0", "0.5", "1"],
    "FL_FAIRNESS_Q": ["-1", "fair"],
    "FL_ROUND_TIMEOUT": ["0", "1.5"],
    "FL_SITE_EVALUATION": ["yes", "rounds", "END"],
    "FL_MIXED_PRECISION": ["NO", "bfloat16"],
    "FL_PERSONALIZATION": ["FedBN", "yes"],
    "FL_PERSONAL_LAYERS": ["head/*", "a b", ",", "a,,b"],
    "FL_FINE_TUNE_EPOCHS": ["-1", "1.5", "all"],
    "FL_ROUND_QUORUM": ["0", "0.0", "1.5", "50%", "-1", "half", "2.0"],
    "FL_SITES": ["North", "north,north", "north/0", ","],
    "FL_MIN_SITES": ["-1", "all"],
    "FL_PRIVACY": ["secagg", "dp"],
    "FL_DP_NOISE": ["0", "-1"],
    "FL_DP_CLIP": ["0", "x"],
    "FL_DP_CLIPPING": ["none"],
    "FL_SECURE_AGGREGATION": ["yes", "secagg"],
    "FL_SECURE_THRESHOLD": ["0", "1.1", "most"],
    "FL_DP_MAX_EPSILON": ["-1", "all", "inf", "nan"],
    "FL_DP_DELTA": ["0", "1", "small"],
    "FL_CHECKPOINT_ENABLED": ["maybe"],
    "FL_CHECKPOINT_INTERVAL": ["0"],
    "FL_CHECKPOINT_KEEP": ["0", "all"],
    "FL_OBJECT_MEMORY": ["-1", "all", "1.5"],
    "FL_SITE_POLICY": ["apps = 1", "apps", "appz = 'any'", "%%%"],
    "FL_KEEP_RUNS": ["0", "-1", "all", "1.5"],
    "FL_CHECKPOINT_PATH": ["checkpoints", "./x"],
    "FL_FLEET_API_ADDRESS": ["9092", "host", "host:0", "host:70000", "a b:1", ":9092"],
    "FL_CONTROL_API_ADDRESS": ["0.0.0.0:8000", "10.0.0.1:8000", "example.org:8000", "127.0.0.1"],
    "FL_DATABASE": ["../state.db", "state/", "/a/../b"],
    "FL_SSL_CA_CERTFILE": ["not base64!", "/etc/ssl/ca.crt"],
    "FL_SSL_CERTFILE": ["%%%"],
    "FL_SSL_KEYFILE": ["%%%"],
    "FL_CERT_EXTRA_SAN": ["10.0.0.1", "IP:nonsense", "DNS:", "URI:x"],
    "FL_METRICS_ENABLED": ["on"],
    "FL_METRICS_PORT": ["80", "70000", "9092", "8000", "9400"],
    "FL_METRICS_ALLOWED": ["everybody", "10.0.0.1/24", "10.0.0.0/33", "example.org"],
    "ML_FRAMEWORK": ["mxnet", "torch"],
    "FL_USE_CASE": ["chess"],
    "FL_NODE_CONFIG": [
        "partition-id",
        "a=1 a=2",
        "partition-id=2 num-partitions=2",
        "partition-id=x",
        "=1",
        "a='b",
        "a=b'c'",
        "a= b",
    ],
    "FL_SUPERLINK_ADDRESS": ["superlink", "host:port", "http://h:1"],
    "FL_PROXY": [
        "proxy:3128",
        "https://proxy:3128",
        "http://proxy",
        "http://me@proxy:3128",
        "http://proxy:3128/path",
        "http://a b@proxy:1",
        "http://me:pa\\ss@proxy:3128",
        "http://me:%0a@proxy:3128",
        "http://x:y@proxy:0",
    ],
    "FL_INVITATION": ["none", "oneflower-invitation-1.e30.00000000"],
    "FL_DRAIN_TIMEOUT": ["-1", "86401", "1.5", ""],
    "FL_OFFLINE_AFTER": ["59", "-1", "3601", "1.5"],
    "FL_MAX_RETRIES": ["-1", "many"],
    "FL_MAX_WAIT_TIME": ["-1"],
    "FL_NODE_KEY_LIFETIME": ["soon", "9s", "36501d", "-5m", "1y"],
    "FL_CERT_LIFETIME": ["", "soon", "9s", "36501d"],
    "FL_CA_LIFETIME": ["", "10", "-5m", "200y"],
    "FL_PROFILE": ["tiny"],
    "FL_EDGE_BACKOFF": ["linear"],
    "FL_EDGE_MAX_BACKOFF": ["0"],
    "FL_SCHEDULE": ["0 2 * *", "@daily", "60 2 * * *", "0 2 * * *;", "0 0 31 2 *"],
    "FL_SCHEDULE_ZONE": ["Europe/Nowhere", "../../etc/passwd", "CET+1x"],
    "FL_SCHEDULE_FROM": ["best", ""],
    "FL_MIN_GAIN": ["-0.1", "nan", "inf", "1 %"],
    "FL_GPU_ENABLED": ["1"],
    "FL_CUDA_VISIBLE_DEVICES": ["", "0,,1", "0;1"],
    "FL_GPU_MEMORY_FRACTION": ["0", "1.1"],
    "FL_DCGM_ENABLED": ["x"],
    "FL_PACKAGES": [
        "-r x.txt",
        "--index-url=https://evil.org",
        "a@https://evil.org/a.whl",
        "./a.whl",
        "--hash=sha256:ab",
    ],
    "FL_PACKAGE_INDEX": ["http://index.org/simple", "https://me:secret@index.org/simple", "wheels", "/a/../b", "/a b"],
    "FL_PACKAGE_HASHES": ["no", ""],
    "FL_WIRE_DTYPE": ["float64", "half", ""],
    "FL_EXECUTION": ["hot", ""],
}


def test_every_parameter_has_invalid_values_to_be_tested_with():
    assert set(INVALID) == set(PARAMETERS), set(PARAMETERS) ^ set(INVALID)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_an_invalid_value_is_refused_with_name_value_and_what_is_expected(name, value):
    with pytest.raises(InvalidParametersError) as caught:
        resolve({name: value})
    [problem] = [p for p in caught.value.problems if p.where == name]
    secret = PARAMETERS[name].secret
    assert secret == (value not in problem.text and repr(value) not in problem.text)
    assert "expected" in problem.text


def test_the_defaults_are_valid():
    settings = resolve({}, bounds=Bounds())
    assert set(settings) == set(PARAMETERS)
    assert settings.integer("FL_NUM_ROUNDS") == 3
    assert settings.flag("FL_TLS_ENABLED") is True
    assert settings.real("FL_TRIM_BETA") == 0.2


def test_a_variable_that_was_removed_is_refused_with_the_reason():
    with pytest.raises(InvalidParametersError, match="FL_ISOLATION: is no longer a variable: app code always runs in"):
        resolve({"FL_ISOLATION": "process"})
    assert not set(REMOVED) & set(PARAMETERS)


def test_all_errors_come_in_one_message():
    with pytest.raises(InvalidParametersError) as caught:
        resolve({"FL_NUM_ROUNDS": "0", "FL_TLS_ENABLED": "maybe", "FL_ROUNDS": "3"}, bounds=Bounds(2, 10, 11))
    text = str(caught.value)
    for part in ("FL_NUM_ROUNDS", "FL_TLS_ENABLED", "did you mean FL_NUM_ROUNDS?", "supernodes: is 11"):
        assert part in text
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"FL_MIN_FIT_CLIENTS": "3"}, "FL_MIN_AVAILABLE_CLIENTS"),
        ({"FL_MIN_EVALUATE_CLIENTS": "3"}, "FL_MIN_AVAILABLE_CLIENTS"),
        ({"FL_STRATEGY": "Krum"}, "FL_NUM_MALICIOUS"),
        ({"FL_STRATEGY": "Bulyan", "FL_NUM_MALICIOUS": "1", "FL_MIN_AVAILABLE_CLIENTS": "6"}, "FL_NUM_MALICIOUS"),
        ({"FL_USE_CASE": "llm-fine-tuning"}, "ML_FRAMEWORK"),
        ({"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "tensorflow"}, "ML_FRAMEWORK"),
        ({"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "xgboost"}, "FL_STRATEGY"),
        ({"FL_USE_CASE": "anomaly-detection", "FL_STRATEGY": "FedXgbCyclic"}, "FL_STRATEGY"),
        ({"FL_STRATEGY": "FedXgbBagging", "FL_PRIVACY": "dp-local"}, "FL_PRIVACY"),
        ({"FL_TLS_ENABLED": "NO"}, "FL_SUPERNODE_AUTH"),
        ({"FL_PACKAGES": f"a==1 --hash=sha256:{'0' * 64}"}, "FL_PACKAGES"),
        ({"FL_PACKAGES": "a==1", "FL_PACKAGE_INDEX": "https://index.org"}, "FL_PACKAGES"),
        ({"FL_PACKAGES": f"a>1 --hash=sha256:{'0' * 64}", "FL_PACKAGE_INDEX": "/wheels"}, "FL_PACKAGES"),
        ({"FL_PACKAGES": "packages.txt", "FL_PACKAGE_INDEX": "/wheels"}, "FL_PACKAGES"),
        ({"FL_PACKAGES": f"a.txt --hash=sha256:{'0' * 64}", "FL_PACKAGE_INDEX": "https://index.org"}, "FL_PACKAGES"),
        ({"FL_METRICS_ENABLED": "YES", "FL_FLEET_API_ADDRESS": "10.0.0.1:9101"}, "FL_METRICS_PORT"),
        ({"FL_SSL_CERTFILE": base64.b64encode(b"x").decode()}, "FL_SSL_CERTFILE"),
    ],
)
def test_rules_between_variables(given, named):
    with pytest.raises(InvalidParametersError) as caught:
        resolve(given)
    assert [p.where for p in caught.value.problems] == [named]


def test_krum_and_bulyan_bounds_are_those_of_the_literature():
    resolve({"FL_STRATEGY": "Krum", "FL_NUM_MALICIOUS": "1", "FL_MIN_AVAILABLE_CLIENTS": "5"})
    resolve({"FL_STRATEGY": "Bulyan", "FL_NUM_MALICIOUS": "1", "FL_MIN_AVAILABLE_CLIENTS": "7"})


@pytest.mark.parametrize(
    ("bounds", "where"),
    [
        (Bounds(2, 10, 1), "supernodes"),
        (Bounds(2, 10, 11), "supernodes"),
        (Bounds(3, 2, 3), "min_vms"),
        (Bounds(0, 2, 1), "min_vms"),
    ],
)
def test_cardinality_stays_within_its_bounds(bounds, where):
    with pytest.raises(InvalidParametersError) as caught:
        resolve({}, bounds=bounds)
    assert where in [p.where for p in caught.value.problems]


def test_min_available_clients_may_not_exceed_min_vms():
    with pytest.raises(InvalidParametersError, match="FL_MIN_AVAILABLE_CLIENTS: is 4; expected at most min_vms"):
        resolve({"FL_MIN_AVAILABLE_CLIENTS": "4"}, bounds=Bounds(2, 10, 4))


def test_a_role_validates_only_what_concerns_it():
    settings = resolve({"FL_NUM_ROUNDS": "0"}, levels=(Level.SERVICE, Level.SUPERNODE))
    assert "FL_NUM_ROUNDS" not in settings
    assert {PARAMETERS[name].level for name in settings} == {Level.SERVICE, Level.SUPERNODE}


def test_no_variable_is_on_two_levels_and_every_user_input_has_five_parts():
    for parameter in PARAMETERS.values():
        flag, kind, meaning, options, default = parameter.user_input().split("|")
        assert (flag, kind) == ("O", "text" if parameter.kind is Kind.PEM else str(parameter.kind))
        assert meaning
        assert default == parameter.default
        assert (parameter.kind is Kind.LIST) == bool(options)
        if options:
            assert default in options.split(",")
    names = [p.name for level in Level for p in of_level(level)]
    assert len(names) == len(set(names)) == len(PARAMETERS)


@pytest.mark.parametrize(
    ("text", "for_flower"),
    [
        ("partition-id=0 num-partitions=2", "partition-id=0 num-partitions=2"),
        ("site=lab", 'site="lab"'),
        ("  a=1.5  b=true c='x y' d=\"1\" ", "a=1.5 b=true c='x y' d=\"1\""),
        ("path=/data/x", 'path="/data/x"'),
    ],
)
def test_a_node_config_reaches_flower_as_it_reads_it(text, for_flower):
    from flwr.common.config import parse_config_args

    assert node_config_text(split_node_config(text)) == for_flower
    assert len(parse_config_args([for_flower])) == len(split_node_config(text))


def test_what_has_no_effect_is_said():
    [line] = ignored(resolve({"FL_METRICS_ALLOWED": "10.0.0.0/24"}))
    assert "FL_METRICS_ALLOWED=10.0.0.0/24 is ignored with FL_METRICS_ENABLED=NO" in line
    [line] = ignored(resolve({"FL_CUDA_VISIBLE_DEVICES": "0"}))
    assert "FL_CUDA_VISIBLE_DEVICES=0 is ignored with FL_GPU_ENABLED=NO" in line


def test_the_form_is_short_and_its_texts_come_last_in_each_group():
    fields = form_fields(tuple(Group))
    assert len(form_fields()) <= 23
    assert list(dict.fromkeys(field.group for field, _ in fields)) == list(Group)
    for group in Group:
        mine = [(field, parameter) for field, parameter in fields if field.group is group]
        assert [field.place for field, _ in mine] == list(range(1, len(mine) + 1))
        texts = [parameter.kind in (Kind.TEXT, Kind.PEM) for _, parameter in mine]
        assert texts == sorted(texts), "Sunstone makes a box of six lines of a text"
        for field, parameter in mine:
            assert re.fullmatch(r"ONEAPP_FLOWER_[A-Z]+_[A-Z]+(_[A-Z]+)*", field.input)
            assert len(parameter.user_input(field.label).split("|")) == 5
            assert field.name != "ENABLED" or parameter.kind is Kind.BOOLEAN, "Sunstone hides the others behind it"
    assert len({field.input for field, _ in fields}) == len(fields)
