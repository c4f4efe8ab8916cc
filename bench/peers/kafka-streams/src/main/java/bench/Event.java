package bench;

import com.google.protobuf.CodedInputStream;
import com.google.protobuf.WireFormat;
import java.io.IOException;
import java.util.Arrays;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** A fleet.arms.v1.ArmEvent that holds a JointPositionsChanged, read field by field. */
final class Event {
  static final Serde<Event> SERDE = Serdes.serdeFrom((name, event) -> null, (name, data) -> Event.parse(data));

  String armId = "";
  long sampledAtUs;
  int count;
  int[] axes = new int[6];
  double[] positions = new double[6];

  static Event parse(byte[] data) {
    Event event = new Event();
    try {
      CodedInputStream in = CodedInputStream.newInstance(data);
      for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
        if (WireFormat.getTagFieldNumber(tag) == 2) {
          int limit = in.pushLimit(in.readRawVarint32());
          event.readChanged(in);
          in.popLimit(limit);
        } else {
          in.skipField(tag);
        }
      }
    } catch (IOException error) {
      throw new IllegalArgumentException(error);
    }
    return event;
  }

  private void readChanged(CodedInputStream in) throws IOException {
    for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
      switch (WireFormat.getTagFieldNumber(tag)) {
        case 1 -> armId = in.readStringRequireUtf8();
        case 2 -> sampledAtUs = in.readInt64();
        case 3 -> {
          int limit = in.pushLimit(in.readRawVarint32());
          readAxis(in);
          in.popLimit(limit);
        }
        default -> in.skipField(tag);
      }
    }
  }

  private void readAxis(CodedInputStream in) throws IOException {
    if (count == axes.length) {
      axes = Arrays.copyOf(axes, 2 * count);
      positions = Arrays.copyOf(positions, 2 * count);
    }
    axes[count] = 0; // a zero is not sent
    positions[count] = 0;
    for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
      switch (WireFormat.getTagFieldNumber(tag)) {
        case 1 -> axes[count] = in.readUInt32();
        case 2 -> positions[count] = in.readDouble();
        default -> in.skipField(tag);
      }
    }
    count++;
  }
}
