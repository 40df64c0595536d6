import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import models.ErrorReply;
import models.Reply;

/** Reads each line into the model of its kind, and writes the model as a line. */
final class Parse {
    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        var lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            boolean isError = json.readTree(line).has("error");
            Class<?> kind = isError ? ErrorReply.class : Reply.class;
            Object model = json.readValue(line, kind);
            System.out.println(json.writeValueAsString(model));
        }
    }
}
