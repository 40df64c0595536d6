import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What the Java programs share: the steps to do, and replies as JSON lines. */
final class Common {
    static final long REPLY_TIMEOUT_S = 60;
    private static final ObjectMapper JSON = new ObjectMapper();

    record Entry(@JsonProperty("key") String key, @JsonProperty("value") String value) {}

    /**
     * A step sends its records to a topic. Where it names a topic of replies, it waits for one reply
     * to each record.
     */
    record Step(
            @JsonProperty("topic") String topic,
            @JsonProperty("replies") String replies,
            @JsonProperty("setting") boolean setting,
            @JsonProperty("records") List<Entry> records) {}

    record Plan(
            @JsonProperty("bootstrap") String bootstrap, @JsonProperty("steps") List<Step> steps) {}

    private Common() {}

    static Plan read(String path) throws IOException {
        return JSON.readValue(new File(path), Plan.class);
    }

    static void print(int step, int record, String error, String reply) throws IOException {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("step", step);
        line.put("record", record);
        line.put("error", error);
        line.put("reply", reply);
        System.out.println(JSON.writeValueAsString(line));
    }
}
