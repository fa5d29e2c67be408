"""Fields of protocol 0.38.0 in request bodies."""


def test_error_names_an_unsupported_optimizer(wire_0_38):
    dimuon = {"type": "dimuon", "learning_rate": 0.1}
    model = wire_0_38.model()
    requests = [
        ("optim_step", {"model_id": model, "seq_id": 1, "optimizer_params": dimuon}),
        ("create_model", {"session_id": wire_0_38.session(), "base_model": "tinkex/tiny", "optimizer_config": dimuon}),
    ]
    for path, body in requests:
        rejected = wire_0_38.post(path, body)
        assert rejected.status_code == 400
        assert "'dimuon'" in rejected.json()["detail"]
