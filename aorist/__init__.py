"""aorist: event sourcing for fleets of robots. Engineers import `aorist.declare`; everything else serves what is declared with it."""
