package bench;

import java.nio.ByteBuffer;

/** The latest position of every axis. As bytes: for each axis its number, its position, its time. */
final class Arm {
  static final int MOST = 32;
  private static final int SIZE = Integer.BYTES + Double.BYTES + Long.BYTES;

  private int count;
  private final int[] axes;
  private final double[] positions;
  private final long[] times;

  Arm(int room) {
    axes = new int[room];
    positions = new double[room];
    times = new long[room];
  }

  static Arm parse(byte[] data) {
    ByteBuffer buffer = ByteBuffer.wrap(data);
    Arm arm = new Arm(Math.min(MOST, data.length / SIZE + 1));
    while (buffer.hasRemaining()) {
      arm.axes[arm.count] = buffer.getInt();
      arm.positions[arm.count] = buffer.getDouble();
      arm.times[arm.count++] = buffer.getLong();
    }
    return arm;
  }

  byte[] bytes() {
    ByteBuffer buffer = ByteBuffer.allocate(count * SIZE);
    for (int i = 0; i < count; i++) {
      buffer.putInt(axes[i]).putDouble(positions[i]).putLong(times[i]);
    }
    return buffer.array();
  }

  /** Late repeats do not win. Returns the arm to keep: itself, or a larger one. */
  Arm apply(Event event) {
    Arm arm = count + event.count <= axes.length ? this : larger(count + event.count);
    for (int i = 0; i < event.count; i++) {
      arm.set(event.axes[i], event.positions[i], event.sampledAtUs);
    }
    return arm;
  }

  private void set(int axis, double position, long time) {
    int at = 0;
    while (at < count && axes[at] != axis) {
      at++;
    }
    if (at == count) {
      axes[count++] = axis;
    } else if (time < times[at]) {
      return;
    }
    positions[at] = position;
    times[at] = time;
  }

  private Arm larger(int room) {
    Arm arm = new Arm(room);
    System.arraycopy(axes, 0, arm.axes, 0, count);
    System.arraycopy(positions, 0, arm.positions, 0, count);
    System.arraycopy(times, 0, arm.times, 0, count);
    arm.count = count;
    return arm;
  }
}
