"""Validation of faults."""

import pytest
import requests

from tinkex_sync.local import Faults


def test_faults_can_be_read_and_set_over_http(server, wire):
    url = f"{server.base_url}/__faults"
    values = requests.post(url, json={"latency": {"/api/v1/asample": 0.01}, "admit_burst": 3}, timeout=10)
    assert values.status_code == 200
    assert requests.get(url, timeout=10).json()["latency"] == {"asample": 0.01}


BAD = [
    ({"no_such_fault": 1}, "no_such_fault"),
    ({"latency": {"asmaple": 1}}, "asmaple"),
    ({"latency": {"asample": -1}}, "-1"),
    ({"latency": 3}, "latency"),
    ({"error_rate": {"asample": 2}}, "error_rate"),
    ({"error_status": 200}, "error_status"),
    ({"fail_first": {"asample": [200]}}, "fail_first"),
    ({"fail_first": {"asample": 500}}, "fail_first"),
    ({"drop_after": {"asample": "x"}}, "drop_after"),
    ({"admit_per_second": 0}, "admit_per_second"),
    ({"admit_burst": 0}, "admit_burst"),
    ({"pause": -1}, "pause"),
    ({"pause_kind": "all"}, "pause_kind"),
    ({"pause_state": "tired"}, "pause_state"),
    ({"expire_promises": True}, "expire_promises"),
]


@pytest.mark.parametrize(("values", "named"), BAD)
def test_error_names_an_invalid_fault(server, values, named):
    with pytest.raises(ValueError, match=named):
        Faults.from_dict(values)
    response = requests.post(f"{server.base_url}/__faults", json=values, timeout=10)
    assert response.status_code == 422
    assert named in response.json()["detail"]


def test_faults_can_be_converted_to_json_and_back():
    faults = Faults(latency={"*": 0.1}, fail_first={"asample": [500]}, admit_per_second=3, retry_after=2)
    assert Faults.from_dict(faults.to_dict()) == faults
