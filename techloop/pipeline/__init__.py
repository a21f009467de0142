"""What surrounds the stages: plan, slots, flow and status; deps, profiles, costs; the doctor."""
