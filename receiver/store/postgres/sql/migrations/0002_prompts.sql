-- Reads the prompt in the body of a submit, so that a search can look into it. NULL if the body is not JSON, or if its
-- prompt is not storable as text: one such request must not make every search fail.
CREATE FUNCTION prompt_of(body BYTEA) RETURNS TEXT LANGUAGE plpgsql AS $$
BEGIN
    RETURN convert_from(body, 'UTF8')::json ->> 'prompt';
EXCEPTION WHEN data_exception OR feature_not_supported THEN
    RETURN NULL;
END
$$;
