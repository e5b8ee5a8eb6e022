"""A lead time that is too short is said once, with the numbers that say so."""

import time

from hvdtrain.train.callbacks.lead_time import LeadTime


def lead_of(lead_s: float, *, save_s: float = 0.0, test_s: float = 0.0) -> list[str]:
    said: list[str] = []
    lead = LeadTime(lead_s, said.append)
    for epoch in range(3):
        lead.save_begins()
        time.sleep(save_s)
        lead.save_ends()
        lead.on_test_begin()
        time.sleep(test_s)
        lead.on_test_end()
        lead.on_epoch_end(epoch)
    return said


def test_a_lead_that_is_long_enough_is_not_mentioned():
    assert lead_of(60.0, save_s=0.01, test_s=0.01) == []


def test_one_that_is_too_short_is_mentioned_once():
    said = lead_of(0.05, save_s=0.04, test_s=0.04)
    assert len(said) == 1
    assert "slurm.stop_lead_s 0.05 is too short" in said[0]
